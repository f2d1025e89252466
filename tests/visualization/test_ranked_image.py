"""Pictures of the false positives that outrank objects."""

import io

import numpy as np
import pytest
from PIL import Image

from ranking_det.visualization.ranked_image import BLANK, draw_ranked_image, free_place
from tests.evaluation.cases import SIDE, mask

BOX = [50, 60, 100, 80]


def draw(image, field, value, size=(SIDE, SIDE)):
    """Draw an object and a false positive at the same place; return the pixels."""
    entries = [{field: value}]
    ranking = {"objects": entries, "false_positives": entries}
    png, jpeg = draw_ranked_image(image, size, ranking)
    assert Image.open(io.BytesIO(jpeg)).size == Image.open(io.BytesIO(png)).size
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.mark.parametrize(("field", "value"), [("bbox", BOX), ("segmentation", mask(BOX))])
def test_outlines_are_drawn_at_their_place_and_labels_do_not_cover_each_other(field, value):
    picture = draw(None, field, value)
    assert picture.shape == (640, 640, 3)
    rows, columns = np.nonzero((picture != BLANK).any(axis=2))
    scale = 640 / SIDE
    assert columns.min() == pytest.approx(50 * scale, abs=8)
    assert columns.max() == pytest.approx(150 * scale, abs=8)
    # The labels are above and below.
    assert 60 * scale - 40 < rows.min() < 60 * scale - 8
    assert 140 * scale + 8 < rows.max() < 140 * scale + 40


def test_an_empty_mask_has_no_outline_and_the_image_fills_the_picture():
    image = np.full((20, 40, 3), (200, 0, 100), np.uint8)
    picture = draw(image, "segmentation", {"size": [20, 40], "counts": [800]}, size=(40, 20))
    assert picture.shape == (320, 640, 3)
    assert (abs(picture.astype(int) - (200, 0, 100)) <= 1).all()


@pytest.mark.parametrize("corner", [(50, 60), (95, 95), (-5, -5), (120, 40)])
def test_labels_at_the_same_corner_cover_neither_each_other_nor_the_edge(corner):
    places = []
    for _ in range(9):
        places.append(free_place(corner, (100, 100), (16, 20), places))
    assert places[0] == (min(max(corner[0], 0), 84), min(max(corner[1], 0), 80))
    for i, (x, y) in enumerate(places):
        assert 0 <= x <= 84 and 0 <= y <= 80
        assert all(abs(x - a) >= 16 or abs(y - b) >= 20 for a, b in places[:i])


def test_a_full_image_has_labels_over_each_other():
    assert free_place((0, 0), (16, 20), (16, 20), [(0, 0)]) == (0, 0)
