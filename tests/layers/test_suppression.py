import pytest
import torch
from torch import nn
from torchvision.ops import nms

from ranking_det.layers import HardNMS, ScoreVoting, SoftNMS
from tests.layers.cases import detections


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("limit", [3, 1000])
def test_hard_nms_agrees_with_torchvision_nms_of_each_class(exact, limit):
    boxes, scores, classes = detections(60, dtype=torch.float32)
    expected = []
    for label in classes.unique():
        rows = (classes == label).nonzero().squeeze(1)
        expected.append(rows[nms(boxes[rows], scores[rows], 0.5)])
    expected = torch.cat(expected)
    expected = expected[scores[expected].argsort(descending=True)][:limit]
    survivors = HardNMS(0.5, exact=exact)(boxes, scores, classes, limit)
    assert torch.equal(survivors.rows, expected)
    assert torch.equal(survivors.scores, scores[expected])
    assert torch.equal(survivors.boxes, boxes[expected])


def test_exact_nms_separates_classes_without_rounding_boxes_far_from_the_origin():
    """Offsets of 1e6 pixels round float32 boxes to multiples of 1/16."""
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.01, 0.0, 1.01, 1.0], [1e6, 0.0, 1e6 + 9, 9.0]])
    arguments = boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 1, 0]), 10
    assert len(HardNMS(0.985)(*arguments).rows) == 3
    assert len(HardNMS(0.985, exact=False)(*arguments).rows) == 2


def test_the_error_names_the_wrong_option():
    for build, message in [
        (lambda: HardNMS(-0.1), "iou_thresh: expected a finite number of at least 0, got -0.1"),
        (lambda: SoftNMS("hard"), "method: expected one of linear, gaussian, got 'hard'"),
        (lambda: SoftNMS(sigma=0.0), "sigma: expected a finite number above 0, got 0.0"),
        (lambda: ScoreVoting(nn.Identity(), sigma=0.0), "sigma: expected a finite number above 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
