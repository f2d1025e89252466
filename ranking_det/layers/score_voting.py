"""Score voting of Probabilistic Anchor Assignment (Kim and Lee, ECCV 2020).

Shapes: n detections of one image before suppression, k of them kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ranking_det.boxes import box_iou
from ranking_det.checks import check_at_least, check_detections

BLOCK_ENTRIES = 1 << 20
"""Entries of one block of a (k, n, 4) tensor, and so some tens of MiB for all that is computed."""


def vote_boxes(
    kept: Tensor,
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    *,
    min_iou: float = 0.01,
    sigma: float = 0.025,
) -> Tensor:
    """Replace each kept box by the mean of the boxes of its class that overlap it.

    A box counts with its score times exp(-(1 - IoU)^2 / sigma), if its IoU with the kept box is
    above ``min_iou``; the kept box itself counts with its whole score.

    Args:
        kept: (k,) int64 indices of the kept boxes.
        boxes: (n, 4) XYXY, all boxes before suppression.
        scores: (n,), >= 0, as they were before suppression.
        classes: (n,) integers.
        min_iou: boxes of at most this IoU do not count.
        sigma: the smaller, the less a distant box counts, > 0.

    Returns:
        (k, 4) XYXY, in float32 or better.

    Raises:
        ValueError: another shape, dtype or device, or an argument out of its range.

    >>> boxes = torch.tensor([[0., 0., 2., 2.], [0., 0., 2., 2.2]])
    >>> vote_boxes(torch.tensor([0]), boxes, torch.tensor([.5, .5]), torch.tensor([0, 0]))
    tensor([[0.0000, 0.0000, 2.0000, 2.0836]])
    """
    check_detections(boxes, scores, classes)
    check_at_least("sigma", sigma, 0.0, strictly=True)
    if kept.dim() != 1 or kept.dtype != torch.int64:
        raise ValueError(
            f"kept: expected int64 of one dimension, got {kept.dtype} of shape {tuple(kept.shape)}"
        )
    wide = torch.promote_types(torch.promote_types(boxes.dtype, scores.dtype), torch.float32)
    boxes, scores = boxes.to(wide), scores.to(wide)
    voted = boxes[kept]
    step = max(1, BLOCK_ENTRIES // max(4 * len(boxes), 1))
    for start in range(0, len(kept), step):
        rows = kept[start : start + step]
        iou = box_iou(boxes[rows, None], boxes)  # (rows, n)
        weight = scores * torch.exp(-(1 - iou).square() / sigma)
        # Also drops the NaN of a box that is not finite.
        weight = torch.where((iou > min_iou) & (classes[rows, None] == classes), weight, 0.0)
        # The mean of the shifts: exact where all boxes are equal, and where none counts (an empty
        # kept box has IoU 0 with itself) the box stays as it is.
        shift = torch.where(weight[..., None] > 0, boxes - boxes[rows, None], 0.0)
        total = weight.sum(dim=1, keepdim=True)
        mean = (weight[..., None] * shift).sum(dim=1) / total
        voted[start : start + step] += torch.where(total > 0, mean, 0.0)
    return voted
