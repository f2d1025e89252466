import math

import pytest
import torch

from ranking_det.assigners import BACKGROUND, CenterRegion

RANGES = ((1, 20), (12, 50), (40, 400))
GRIDS = (12, 7, 3)


def cells_of(size, height, width):
    """Make the size x size cells of an image, row by row."""
    rows = [
        [j * width / size, i * height / size, (j + 1) * width / size, (i + 1) * height / size]
        for i in range(size)
        for j in range(size)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def claims_by_loop(boxes, height, width, ranges=RANGES, grids=GRIDS, region=0.2):
    """Return the pairs (cell, object) by SOLO's definition; cells are counted over the levels."""
    pairs, first = [], 0
    for (low, high), size in zip(ranges, grids):
        for index, (x1, y1, x2, y2) in enumerate(boxes):
            if not low <= math.sqrt((x2 - x1) * (y2 - y1)) <= high:
                continue
            spans = []
            for start, stop, side in ((x1, x2, width), (y1, y2, height)):
                center, half = (start + stop) / 2, region / 2 * (stop - start)
                middle, a, b = (
                    math.floor(value / side * size)
                    for value in (center, center - half, center + half)
                )
                spans.append(range(max(0, a, middle - 1), min(size - 1, b, middle + 1) + 1))
            pairs += [(first + i * size + j, index) for i in spans[1] for j in spans[0]]
        first += size**2
    return sorted(pairs)


def random_scene(count, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    sides = torch.tensor([width, height]) * (
        0.02 + 0.95 * torch.rand(count, 2, generator=generator)
    )
    corners = (torch.tensor([width, height]) - sides) * torch.rand(count, 2, generator=generator)
    boxes = torch.cat([corners, corners + sides], dim=1).double()
    return [cells_of(size, height, width) for size in GRIDS], boxes, torch.arange(count) % 5


@pytest.mark.parametrize("shape", [(64, 96), (160, 32), (100, 37)])
@pytest.mark.parametrize("region", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("count", [0, 1, 30])
def test_the_cells_of_each_object_are_those_of_a_loop(shape, region, count):
    cells, boxes, classes = random_scene(count, *shape, seed=count)
    expected = claims_by_loop(boxes.tolist(), *shape, region=region)
    num_rows = sum(map(len, cells))
    first, last = {}, {}
    for row, index in expected:
        first.setdefault(row, index)
        last[row] = index
    for shared, owners in ((False, first), (True, last)):
        assigner = CenterRegion(RANGES, region, shared)
        valid = torch.ones(num_rows, dtype=torch.bool)
        labels, gt_index = assigner(cells, [boxes], [classes], valid)
        assert gt_index.tolist() == [owners.get(row, -1) for row in range(num_rows)]
        has_object = gt_index >= 0
        assert torch.equal(labels[has_object], classes[gt_index[has_object]])
        assert (labels[~has_object] == BACKGROUND).all()
        pairs = assigner.all_claims(cells, [boxes[:0], boxes, boxes[:0]])
        assert pairs.tolist() == [[num_rows + row, index] for row, index in expected]
    if count > 1:
        assert len(expected) > len(first)  # several objects want the same cell


def test_objects_are_counted_over_the_images_of_the_batch():
    cells, boxes, classes = random_scene(9, 64, 64, seed=1)
    assigner, num_rows = CenterRegion(RANGES), sum(map(len, cells))
    single = assigner(cells, [boxes], [classes], torch.ones(num_rows, dtype=torch.bool)).gt_index
    pairs = assigner.all_claims(cells, [boxes[:2], boxes])
    batch = assigner(
        *(cells, [boxes[:2], boxes], [classes[:2], classes]),
        torch.ones(2 * num_rows, dtype=torch.bool),
    ).gt_index
    assert torch.equal(batch[num_rows:], torch.where(single >= 0, single + 2, -1))
    assert pairs[pairs[:, 0] >= num_rows, 1].min() == 2 and pairs[-1, 0] < 2 * num_rows


def test_an_object_may_be_on_two_levels_or_on_none():
    cells = [cells_of(size, 64, 64) for size in GRIDS]
    sides = torch.tensor([12.0, 20.0, 20.5, 0.9, 401.0])
    boxes = torch.stack([32 - sides / 2, 32 - sides / 2, 32 + sides / 2, 32 + sides / 2], dim=1)
    for box, levels in zip(boxes, ([0, 1], [0, 1], [1], [], [])):
        rows = CenterRegion(RANGES).all_claims(cells, [box[None]])[:, 0].contiguous()
        edges = torch.tensor([len(level) for level in cells]).cumsum(0)
        assert torch.searchsorted(edges, rows, right=True).unique().tolist() == levels


def test_a_large_object_has_at_most_three_cells_in_each_direction():
    cells = [cells_of(40, 100, 100)]
    pairs = CenterRegion([(1, 1000)], region=1.0).all_claims(
        cells, [torch.tensor([[0.0, 0.0, 100.0, 100.0]])]
    )
    rows = pairs[:, 0]
    assert sorted({int(row) // 40 for row in rows}) == [19, 20, 21]
    assert sorted({int(row) % 40 for row in rows}) == [19, 20, 21]


def test_the_error_names_the_wrong_argument():
    with pytest.raises(ValueError, match="region: expected a finite number of at least 0, got -1"):
        CenterRegion(region=-1.0)
    with pytest.raises(ValueError, match="scale_ranges: expected a pair 0 <= low <= high"):
        CenterRegion([(5, 1)])
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0]])
    with pytest.raises(ValueError, match="anchors: expected 5 levels, one for each .*, got 1"):
        CenterRegion().all_claims([cells_of(3, 9, 9)], [boxes])
