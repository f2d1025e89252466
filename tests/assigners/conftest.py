import pytest
import torch

from tests.assigners.cases import grid, random_boxes


@pytest.fixture
def scene():
    """Return three levels of anchors, some invalid, and two images with 7 and 0 objects."""
    generator = torch.Generator().manual_seed(3)
    anchors = [grid(96, stride, jitter=generator) for stride in (8, 16, 32)]
    gt_boxes = [random_boxes(7, 96, generator), torch.zeros(0, 4, dtype=torch.float64)]
    gt_classes = [torch.arange(7) % 4, torch.zeros(0, dtype=torch.int64)]
    valid = torch.rand(2 * sum(map(len, anchors)), generator=generator) > 0.1
    return anchors, gt_boxes, gt_classes, valid
