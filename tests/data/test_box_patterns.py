"""Detect files whose boxes are normalized, corners, or relative to images of another size."""

import json

import numpy as np
import pytest

from ranking_det.data.coco_json.reader import ReadOptions, check_content
from ranking_det.data.coco_json.rules import find_pattern
from ranking_det.user_errors import UserError
from tests.data.cases import valid_content

SIZE = np.array([640.0, 480.0])


def random_boxes(seed, count=60, smallest=8.0):
    """Return random boxes (n, 4) inside images, their sizes (n, 2) and images (n,)."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1)
    start, extent = corners[:, 0] * SIZE, (corners[:, 1] - corners[:, 0]) * SIZE
    boxes = np.concatenate([start, np.maximum(extent, smallest)], 1)
    return boxes, np.tile(SIZE, (count, 1)), np.arange(count) // 3


def corners_of(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def centers_of(boxes):
    return np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], 1)


PATTERNS = {
    "normalized": (lambda boxes, size: boxes / np.tile(size, 2), "look normalized"),
    "normalized corners": (
        lambda boxes, size: corners_of(boxes) / np.tile(size, 2),
        "look normalized",
    ),
    "normalized centers": (
        lambda boxes, size: centers_of(boxes) / np.tile(size, 2),
        "look normalized",
    ),
    "sub-pixel": (
        lambda boxes, size: np.concatenate([boxes[:, :2], boxes[:, 2:] / size], 1),
        "smaller than a pixel",
    ),
    "corners": (lambda boxes, size: corners_of(boxes), "look like corners x1, y1, x2, y2"),
    "scaled to a smaller image": (lambda boxes, size: boxes / 5, "lie in one corner"),
}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("seed", range(5))
def test_boxes_in_other_coordinates_match_a_pattern(name, seed):
    convert, text = PATTERNS[name]
    boxes, sizes, images = random_boxes(seed)
    boxes[:, 2:] = np.minimum(boxes[:, 2:], SIZE - boxes[:, :2])
    pattern = find_pattern(convert(boxes, sizes), sizes, images)
    assert pattern is not None and text in pattern.text
    assert pattern.count >= 0.95 * len(boxes)


@pytest.mark.parametrize("name", ["normalized", "corners"])
def test_a_few_correct_boxes_and_nan_boxes_do_not_hide_the_pattern(name):
    boxes, sizes, images = random_boxes(7, count=100)
    boxes[:, 2:] = np.minimum(boxes[:, 2:], SIZE - boxes[:, :2])
    wrong_boxes = PATTERNS[name][0](boxes, sizes)
    wrong_boxes[:3] = boxes[:3]
    wrong_boxes[3] = np.nan
    assert find_pattern(wrong_boxes, sizes, images) is not None


TOP_LEFT = np.array([[10.0, 10, 60, 40]] * 19)
VALID_BOXES = {
    "random": lambda: random_boxes(0),
    "small objects": lambda: random_boxes(1, smallest=2.0),
    "a single object": lambda: (np.array([[5.0, 5, 600, 470]]), SIZE[None], np.zeros(1)),
    "an object that sticks out": (
        lambda: (np.array([[5.0, 5, 640, 480]]), SIZE[None], np.zeros(1))
    ),
    "objects as large as the image": (
        lambda: (np.tile([0.0, 0, *SIZE], (40, 1)), np.tile(SIZE, (40, 1)), np.arange(40))
    ),
    "large objects, 3 pixels too far": (
        lambda: (np.tile([9.0, 9, *(SIZE - 6)], (40, 1)), np.tile(SIZE, (40, 1)), np.arange(40))
    ),
    "few objects in a corner": (lambda: (TOP_LEFT, np.tile(SIZE, (19, 1)), np.arange(19))),
    "objects of few images in a corner": (
        lambda: (np.tile(TOP_LEFT[:1], (99, 1)), np.tile(SIZE, (99, 1)), np.arange(99) % 4)
    ),
    "many objects in a corner and one elsewhere": (
        lambda: (
            np.concatenate([np.tile(TOP_LEFT[:1], (99, 1)), [[400.0, 10, 60, 40]]]),
            np.tile(SIZE, (100, 1)),
            np.arange(100),
        )
    ),
    "some objects of a pixel": (
        lambda: (
            np.concatenate([np.tile([9.0, 9, 0.9, 0.9], (50, 1)), random_boxes(2, 50)[0]]),
            np.tile(SIZE, (100, 1)),
            np.arange(100),
        )
    ),
    "images without a size": (
        lambda: (random_boxes(3)[0], np.full((60, 2), np.nan), np.arange(60))
    ),
    "no objects": lambda: (np.zeros((0, 4)), np.zeros((0, 2)), np.zeros(0)),
}


@pytest.mark.parametrize("name", VALID_BOXES)
def test_boxes_in_the_expected_coordinates_match_no_pattern(name):
    assert find_pattern(*VALID_BOXES[name]()) is None


def test_a_file_of_normalized_boxes_gives_a_one_line_error_that_names_the_remedy():
    content = valid_content()
    for annotation in content["annotations"]:
        annotation["bbox"] = [value / 40 for value in annotation["bbox"]]
    with pytest.raises(UserError) as caught:
        check_content(content, "own.json")
    message = str(caught.value)
    assert message.startswith("own.json: 4 of 4 boxes lie within 0 to 1 and look normalized")
    assert "\n" not in message and "--boxes normalized" in message
    assert message.endswith("(--max-faults 4 accepts them as they are)")
    with pytest.raises(UserError, match="look normalized"):
        check_content(content, "own.json", ReadOptions(max_faults=3))
    checked = check_content(content, "own.json", ReadOptions(max_faults=4))
    assert len(checked.annotations) == 4
    assert json.dumps(checked.annotations[0]["bbox"]) == json.dumps(
        content["annotations"][0]["bbox"]
    )
