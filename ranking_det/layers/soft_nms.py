"""Soft-NMS (Bodla et al., ICCV 2017), class by class.

Shapes: n detections of one image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ranking_det.boxes import box_iou
from ranking_det.checks import check_at_least, check_detections

METHODS = ("linear", "gaussian")


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    *,
    method: str = "linear",
    iou_thresh: float = 0.5,
    sigma: float = 0.5,
    min_score: float = 0.0,
    max_detections: int = 100,
) -> tuple[Tensor, Tensor]:
    """Pick the detection of highest score, lower those of its class that overlap it, and repeat.

    Scores only fall and the picks of all classes come in descending order, so that the first
    ``max_detections`` picks are those of a run to the end.

    Args:
        boxes: (n, 4) XYXY.
        scores: (n,); one of at most 0, or NaN, is never picked.
        classes: (n,) integers; detections of different classes do not touch one another.
        method: what a pick of overlap IoU multiplies a score by: "linear", 1 - IoU where the IoU is
            at least ``iou_thresh``; "gaussian", exp(-IoU^2 / sigma).
        iou_thresh: of the linear method.
        sigma: of the Gaussian method, > 0.
        min_score: a detection whose lowered score is at most this is dropped, >= 0.
        max_detections: picks, >= 1.

    Returns:
        The indices (k,) int64 of the picks, and their lowered scores (k,), in descending order.

    Raises:
        ValueError: another shape, dtype or device, or an argument out of its range.

    >>> boxes = torch.tensor([[0., 0., 2., 2.], [0., 0., 2., 1.5], [4., 0., 6., 2.]])
    >>> soft_nms(boxes, torch.tensor([.8, .4, .5]), torch.tensor([0, 0, 0]))
    (tensor([0, 2, 1]), tensor([0.8000, 0.5000, 0.1000]))
    """
    check_detections(boxes, scores, classes)
    _check_options(method, sigma, min_score, max_detections)
    # In float32 or better: lowered scores of float16 would tie. A taken score is 0 from then on.
    remaining = scores.to(torch.promote_types(scores.dtype, torch.float32)).nan_to_num(nan=0.0)
    steps = min(max_detections, len(scores))
    picks = torch.empty(steps, dtype=torch.int64, device=scores.device)
    lowered = remaining.new_empty(steps)
    # No look at a value within the loop: on a GPU each would wait for the device.
    for step in range(steps):
        value, best = remaining.max(dim=0, keepdim=True)
        picks[step : step + 1], lowered[step : step + 1] = best, value
        iou = box_iou(boxes[best], boxes).nan_to_num(nan=0.0)  # of a box that is not finite
        if method == "linear":
            factor = torch.where(iou >= iou_thresh, 1 - iou, 1.0)
        else:
            factor = torch.exp(-iou.square() / sigma)
        remaining = torch.where(classes == classes[best], remaining * factor, remaining)
        remaining[best] = 0.0
    kept = lowered > min_score
    return picks[kept], lowered[kept]


def _check_options(method: str, sigma: float, min_score: float, max_detections: int) -> None:
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    check_at_least("sigma", sigma, 0.0, strictly=True)
    if not min_score >= 0:
        raise ValueError(f"min_score: expected a number of at least 0, got {min_score!r}")
    if not isinstance(max_detections, int) or max_detections < 1:
        raise ValueError(
            f"max_detections: expected an integer of at least 1, got {max_detections!r}"
        )
