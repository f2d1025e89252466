"""Statistics of a data set: object sizes, crowding, duplicate images, sample images."""

import dataclasses
import json
import math

import numpy as np
import pytest

from ranking_det.boxes import box_iou
from ranking_det.data.coco_json.reader import check_content
from ranking_det.data.object_statistics import (
    ImageObjects,
    choose_samples,
    find_copies,
    group_objects,
    histogram,
    measure,
    shortest_edge_scales,
)
from tests.data.formats.cases import make_image


def image(boxes, classes=None, size=(100, 80), path="x.jpg", masks=None):
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    classes = np.zeros(len(boxes), np.int64) if classes is None else np.array(classes)
    return ImageObjects(str(path), path, size, boxes, classes, masks or [None] * len(boxes))


def random_images(count, num_objects, seed=0):
    rng, images = np.random.default_rng(seed), []
    for _ in range(count):
        corners = rng.uniform(0, 50, (num_objects, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(1, 40, (num_objects, 2))], axis=1)
        images.append(image(boxes, rng.integers(0, 3, num_objects)))
    return images


def test_the_statistics_equal_those_of_a_loop_over_the_objects():
    images = [*random_images(4, 30), image([])]
    scales = np.array([1.0, 2.0, 0.5, 1.0, 1.0])
    statistics = measure(images, ["a", "b", "c", "d"], scales, crowds=2)
    objects, images_of = dict.fromkeys("abcd", 0), dict.fromkeys("abcd", 0)
    sizes, inputs, ratios, overlaps_same_class, overlaps_other_class = [], [], [], 0, 0
    for image_objects, scale in zip(images, scales):
        for name in {"abc"[label] for label in image_objects.classes}:
            images_of[name] += 1
        for i, (x1, y1, x2, y2) in enumerate(image_objects.boxes):
            objects["abc"[image_objects.classes[i]]] += 1
            sizes.append(math.sqrt((x2 - x1) * (y2 - y1)))
            inputs.append(scale * sizes[-1])
            ratios.append((x2 - x1) / (y2 - y1))
            near = [
                j
                for j in range(len(image_objects.boxes))
                if j != i and iou(image_objects.boxes, i, j) > 0.5
            ]
            overlaps_same_class += any(
                image_objects.classes[j] == image_objects.classes[i] for j in near
            )
            overlaps_other_class += any(
                image_objects.classes[j] != image_objects.classes[i] for j in near
            )
    assert (statistics.images, statistics.empty_images, statistics.objects, statistics.crowds) == (
        5,
        1,
        120,
        2,
    )
    counts = {count.name: (count.objects, count.images) for count in statistics.classes}
    assert counts == {name: (objects[name], images_of[name]) for name in "abcd"}
    assert statistics.sizes.median == pytest.approx(np.median(sizes))
    assert statistics.input_sizes.high == pytest.approx(np.quantile(inputs, 0.95))
    assert statistics.aspect_ratios.minimum == pytest.approx(min(ratios))
    assert statistics.objects_per_image.mean == 120 / 5
    assert statistics.coco_sizes == [
        sum(size < 32 for size in sizes),
        sum(s >= 32 for s in sizes),
        0,
    ]
    assert statistics.tiny[1.5] == sum(1.5 * size < 8 for size in inputs) / 120
    crowding = statistics.crowding
    assert (
        (crowding.same_class, crowding.other_class) == (overlaps_same_class, overlaps_other_class)
        and overlaps_same_class
        and overlaps_other_class
    )
    for values in (statistics.sizes, statistics.input_sizes, statistics.aspect_ratios):
        assert sum(part.count for part in values.bins) == 120


def iou(boxes, i, j):
    import torch

    pair = [torch.as_tensor(boxes[k : k + 1]) for k in (i, j)]
    return float(box_iou(*pair))


def test_crowding_does_not_depend_on_the_block_size(monkeypatch):
    images = random_images(2, 20, seed=1)
    images.append(image([[0, 0, 10, 10], [0, 0, 10, 10.1], [0, 0, 10, 10.2]], [1, 1, 2]))
    expected = measure(images, "abc", np.ones(3)).crowding
    monkeypatch.setattr("ranking_det.data.object_statistics._ROWS", 3)
    assert measure(images, "abc", np.ones(3)).crowding == expected
    assert expected.duplicate_pairs == 1


def test_a_split_without_objects_has_finite_statistics():
    statistics = measure([image([])], ["a"], np.ones(1))
    json.dumps(dataclasses.asdict(statistics), allow_nan=False)
    assert statistics.objects == 0 and statistics.sizes.median == 0


def test_crowds_are_left_out_and_boxes_are_converted_to_corners():
    annotations = [
        {"id": 1, "image_id": 5, "category_id": 9, "bbox": [1, 2, 30, 40]},
        {"id": 2, "image_id": 5, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1},
    ]
    content = {
        "images": [{"id": 5, "file_name": "a.jpg", "width": 64, "height": 48}],
        "categories": [{"id": 9, "name": "nine"}, {"id": 3, "name": "three"}],
        "annotations": annotations,
    }
    (grouped,) = group_objects(check_content(content, "x"), [None])
    assert grouped.boxes.tolist() == [[1, 2, 31, 42]] and grouped.classes.tolist() == [1]
    assert (grouped.name, grouped.size, grouped.path) == ("a.jpg", (64, 48), None)


def test_bins_of_whole_numbers_are_labeled_with_inclusive_ranges():
    integer_bins = histogram(np.array([0, 1, 4, 7]), (0, 1, 3, 5, np.inf), integers=True)
    assert [(bin_.label, bin_.count) for bin_ in integer_bins] == [
        *[("0", 1), ("1 to 2", 1), ("3 to 4", 1), ("5 and more", 1)]
    ]


def test_the_shorter_side_is_scaled_unless_the_longer_side_would_exceed_its_limit():
    images = [image([], size=size) for size in ((400, 200), (300, 900))]
    assert shortest_edge_scales(images, 800, 1333).tolist() == [1333 / 400, 1333 / 900]
    assert shortest_edge_scales(images, 100, 1333).tolist() == [0.5, 1 / 3]


def test_samples_include_the_most_objects_the_smallest_object_and_every_class():
    images = random_images(20, 2)
    for index, image_objects in enumerate(images):
        image_objects.classes[:] = 0
        images[index] = image_objects._replace(path=f"{index}.jpg")
    images[3] = image([[0, 0, 20, 20]] * 7, path="3.jpg")
    images[8] = image([[0, 0, 1, 0.5]], path="8.jpg")
    images[15].classes[1] = 2
    images[17] = image([[0, 0, 0.1, 0.1]] * 9, path=None)  # a missing file is not chosen
    chosen = choose_samples(images, 4)
    assert len(chosen) == 4 and {3, 8, 15} < set(chosen)
    assert chosen[3] == "the most objects, 7" and chosen[8].startswith("the smallest object, 0.7")
    assert choose_samples(images, 4) == chosen
    assert choose_samples(images, 4, seed=1) != chosen
    assert choose_samples([image([])], 4) == {}


def test_duplicate_images_are_found_within_a_split_and_across_splits(tmp_path):
    def write_image(split, name, seed):
        path = make_image(tmp_path / split / name, seed=seed)
        return image([], path=str(path))._replace(name=name)

    seeds = {f"{i}.jpg": i for i in range(5)} | {"again.png": 0}
    splits = {
        "train": [write_image("train", name, seed) for name, seed in seeds.items()],
        "val": [write_image("val", name, seed) for name, seed in (("0.jpg", 7), ("new.jpg", 3))],
    }
    copies = find_copies(splits)
    assert sorted(map(sorted, copies.groups)) == [
        ["train/0.jpg", "train/again.png"],
        ["train/3.jpg", "val/new.jpg"],
    ]
    assert (copies.surplus, copies.across) == (2, 1)
