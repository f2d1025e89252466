import pytest
import torch

from ranking_det import row_blocks as blocks
from ranking_det.assigners import ATSS, BACKGROUND, FCOS, IGNORE, PAA, MaxIoU, NormalizedPAA
from tests.assigners.cases import grid, random_boxes
from tests.assigners.reference import fcos

RANGES = (16, 32)


def expected(anchors, gt_boxes, gt_classes, valid, radius, ranges=RANGES):
    matches = fcos([a.tolist() for a in anchors], gt_boxes.tolist(), valid.tolist(), radius, ranges)
    labels = [BACKGROUND if m is None else gt_classes[m].item() for m in matches]
    index = [-1 if m is None else m for m in matches]
    return torch.tensor(labels).masked_fill(~valid, IGNORE), torch.tensor(index)


def locations(size=96, strides=(8, 16, 32)):
    return [grid(size, stride, (8.0,)) for stride in strides]


def label_one_level(box, *more, radius=1.5, size=64):
    """Return the labels on an 8-pixel grid with one level for all sizes; object i has class i."""
    boxes = torch.tensor([box, *more], dtype=torch.float64)
    count = (size // 8) ** 2
    return FCOS(radius, ())(
        [grid(size, 8, (8.0,))], [boxes], [torch.arange(len(boxes))], torch.ones(count) > 0
    ).labels.reshape(size // 8, -1)


@pytest.mark.parametrize("radius", [0.0, 0.6, 1.5, 4.0])
@pytest.mark.parametrize("seed", range(4))
def test_fcos_agrees_with_the_reference_on_two_images(seed, radius):
    generator = torch.Generator().manual_seed(seed)
    anchors = locations()
    boxes = [random_boxes(count, 96, generator) for count in (12, 3)]
    classes = [torch.randint(0, 5, (len(b),), generator=generator) for b in boxes]
    half = sum(map(len, anchors))
    valid = torch.rand(2 * half, generator=generator) > 0.1
    result = FCOS(radius, RANGES)(anchors, boxes, classes, valid)
    assert (result.labels >= 0).any()
    for i, offset in enumerate((0, 12)):
        rows = slice(i * half, (i + 1) * half)
        labels, index = expected(anchors, boxes[i], classes[i], valid[rows], radius)
        torch.testing.assert_close(result.labels[rows], labels)
        torch.testing.assert_close(
            result.gt_index[rows], torch.where(index >= 0, index + offset, -1)
        )


def test_a_location_is_assigned_to_the_first_of_the_smallest_objects():
    labels = label_one_level([0, 0, 64, 64], [8, 8, 40, 40], [8, 8, 40, 40], radius=0.0)
    assert set(labels[1:5, 1:5].flatten().tolist()) == {1}
    assert labels[0, 0] == 0 and labels[5, 5] == 0


def test_center_sampling_radius_is_in_strides_and_clipped_to_the_box():
    # 1.5 strides of 8 pixels around (32, 32) contain the locations at 28 and 36, not 20 and 44.
    positive = label_one_level([0, 0, 64, 64]) == 0
    assert positive.nonzero().tolist() == [[3, 3], [3, 4], [4, 3], [4, 4]]
    # A box from 29 to 35 pixels contains no location: the nearest ones lie at 28 and 36 pixels.
    assert not (label_one_level([29, 0, 35, 64]) == 0).any()
    assert (label_one_level([0, 0, 64, 64], radius=0.0) == 0).all()


def test_a_location_on_a_box_edge_is_not_positive():
    assert not (label_one_level([28, 0, 36, 64], radius=0.0) == 0).any()
    # The locations at 20 and 44 pixels are exactly 1.5 strides from the center.
    assert (label_one_level([0, 0, 64, 64], radius=1.5) == 0).sum() == 4
    assert (label_one_level([0, 0, 64, 64], radius=1.51) == 0).sum() == 16


def test_a_distance_on_the_border_of_two_ranges_belongs_to_the_lower_level():
    # Every level has one location, at the center of the box, (64, 64).
    level = torch.tensor([[0.0, 0.0, 128.0, 128.0]])
    for size, chosen in ((63.9, 0), (64.0, 0), (64.1, 1), (128.0, 1), (128.1, 2)):
        box = torch.tensor([[64 - size, 64 - size, 64 + size, 64 + size]])
        result = FCOS(size_ranges=(64, 128))(
            [level] * 3, [box], [torch.tensor([3])], torch.ones(3) > 0
        )
        assert result.labels.tolist() == [3 if i == chosen else BACKGROUND for i in range(3)]


def test_the_block_size_does_not_change_the_result(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    anchors = locations()
    boxes = random_boxes(30, 96, generator)
    boxes = torch.cat([boxes, boxes])  # equal areas in different blocks
    arguments = anchors, [boxes], [torch.arange(60)], torch.ones(sum(map(len, anchors))) > 0
    in_one_block = FCOS(0.0, RANGES)(*arguments)
    monkeypatch.setattr(blocks, "BLOCK_ENTRIES", 4 * sum(map(len, anchors)))
    torch.testing.assert_close(FCOS(0.0, RANGES)(*arguments).labels, in_one_block.labels)
    assert in_one_block.labels.max() < 30


def test_images_without_objects_are_background():
    anchors = locations()
    count = sum(map(len, anchors))
    boxes = [torch.zeros(0, 4), torch.tensor([[8.0, 8.0, 60.0, 60.0]])]
    classes = [torch.zeros(0, dtype=torch.int64), torch.tensor([2])]
    result = FCOS(size_ranges=RANGES)(anchors, boxes, classes, torch.ones(2 * count) > 0)
    assert set(result.labels[:count].tolist()) == {BACKGROUND}
    assert set(result.labels[count:].tolist()) == {BACKGROUND, 2}
    assert set(result.gt_index.tolist()) == {-1, 0}


def test_invalid_locations_and_empty_objects_give_no_positives():
    anchors = locations()
    count = sum(map(len, anchors))
    boxes, classes = [torch.tensor([[8.0, 8.0, 60.0, 60.0]])], [torch.tensor([0])]
    all_invalid = FCOS(size_ranges=RANGES)(anchors, boxes, classes, torch.zeros(count) > 0)
    assert set(all_invalid.labels.tolist()) == {IGNORE}
    empty = [torch.tensor([[36.0, 36.0, 36.0, 36.0]])]
    result = FCOS(0.0, RANGES)(anchors, empty, classes, torch.ones(count) > 0)
    assert set(result.labels.tolist()) == {BACKGROUND}
    no_levels = FCOS(size_ranges=RANGES)([torch.zeros(0, 4)] * 3, boxes, classes, torch.ones(0) > 0)
    assert len(no_levels.labels) == 0


def test_only_fcos_needs_one_square_anchor_per_location():
    assert FCOS.one_per_location
    assert not any(a.one_per_location for a in (ATSS, MaxIoU, PAA, NormalizedPAA))


def test_the_error_names_the_wrong_argument():
    box, label = [torch.tensor([[8.0, 8.0, 60.0, 60.0]])], [torch.tensor([0])]
    with pytest.raises(ValueError, match=r"anchors: expected 5 levels.*\(64, 128, 256, 512\), g"):
        FCOS()([grid(64, 8, (8.0,))], box, label, torch.ones(64) > 0)
    flat = torch.tensor([[0.0, 0.0, 64.0, 64.0], [0.0, 0.0, 64.0, 32.0]])
    with pytest.raises(ValueError, match=r"anchors\[0\]: expected square anch.*got one of 64 x 32"):
        FCOS(size_ranges=())([flat], box, label, torch.ones(2) > 0)
    for ranges in ((0, 64), (64, 64), (128, 64)):
        with pytest.raises(
            ValueError, match="size_ranges: expected ascending numbers above 0, got"
        ):
            FCOS(size_ranges=ranges)
    for radius in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="center_radius: .* finite number of at least 0, got"):
            FCOS(center_radius=radius)
