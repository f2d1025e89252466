"""Localisation errors per box, unreduced; the criterion weighs and sums them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ranking_det.boxes import box_giou, box_iou
from ranking_det.checks import check_at_least
from ranking_det.criteria.candidates import Candidates


class IoU(nn.Module):
    """1 - IoU of the decoded box and its object, in [0, 1]."""

    def forward(self, candidates: Candidates) -> Tensor:
        """Return (P,), with gradient."""
        return 1 - box_iou(candidates.boxes, candidates.gt_boxes)


class GIoU(nn.Module):
    """1 - GIoU of the decoded box and its object, in [0, 2]."""

    def forward(self, candidates: Candidates) -> Tensor:
        """Return (P,), with gradient."""
        return 1 - box_giou(candidates.boxes, candidates.gt_boxes)


class SmoothL1(nn.Module):
    """Smooth L1 on the raw box outputs, summed over the four coordinates.

    The target is the encoding (dx, dy, dw, dh) of the object relative to the anchor (Girshick et
    al., CVPR 2014, appendix C), times ``weights``.

    Args:
        beta: where the quadratic turns linear, >= 0; 0 is plain L1.
        weights: factors of dx, dy, dw, dh; they must equal those of the detector's box coder.
    """

    def __init__(self, beta: float = 0.0, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> None:
        super().__init__()
        check_at_least("beta", beta, 0.0)
        if len(weights) != 4 or not all(isinstance(w, (int, float)) for w in weights):
            raise ValueError(f"weights must be four numbers, got {tuple(weights)}")
        self.beta = beta
        self.weights = tuple(weights)

    def forward(self, candidates: Candidates) -> Tensor:
        """Return (P,), with gradient."""
        anchors, gt_boxes = candidates.anchors.float(), candidates.gt_boxes.float()
        size, gt_size = anchors[:, 2:] - anchors[:, :2], gt_boxes[:, 2:] - gt_boxes[:, :2]
        shift = (gt_boxes[:, :2] + gt_boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / 2
        target = torch.cat([shift / size, torch.log(gt_size / size)], dim=1)
        target = target * target.new_tensor(self.weights)
        outputs = candidates.box_outputs.float()
        return functional.smooth_l1_loss(outputs, target, reduction="none", beta=self.beta).sum(1)
