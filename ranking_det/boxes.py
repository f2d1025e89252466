"""IoU and GIoU of boxes, used by assigners and losses alike.

Computed in float32 or better: areas of a 1333 px image overflow float16.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

EPS = 1e-7
"""Smallest denominator, in pixels squared: two empty boxes have IoU 0 and finite gradients."""


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union, with broadcasting.

    Args:
        boxes: (..., 4) XYXY, x2 >= x1 and y2 >= y1.
        others: (..., 4) XYXY; (G, 1, 4) against (R, 4) gives all pairs (G, R).

    Returns:
        (...) in [0, 1], with gradient.

    Raises:
        ValueError: the last dimension is not 4.

    >>> box_iou(torch.tensor([[0., 0., 2., 2.]]), torch.tensor([[0., 0., 2., 1.]]))
    tensor([0.5000])
    """
    boxes, others = _prepare(boxes, others)
    inter, union = _intersection_union(boxes, others)
    return inter / union.clamp(min=EPS)


def box_giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al., CVPR 2019), with broadcasting.

    IoU less the share of the smallest enclosing box that neither covers.

    Args:
        boxes: (..., 4) XYXY, x2 >= x1 and y2 >= y1.
        others: (..., 4) XYXY.

    Returns:
        (...) in [-1, 1], with gradient.

    Raises:
        ValueError: the last dimension is not 4.

    >>> box_giou(torch.tensor([[0., 0., 1., 1.]]), torch.tensor([[1., 1., 2., 2.]]))
    tensor([-0.5000])
    """
    boxes, others = _prepare(boxes, others)
    inter, union = _intersection_union(boxes, others)
    size = torch.max(boxes[..., 2:], others[..., 2:]) - torch.min(boxes[..., :2], others[..., :2])
    hull = size[..., 0] * size[..., 1]
    return inter / union.clamp(min=EPS) - (hull - union) / hull.clamp(min=EPS)


def _prepare(boxes: Tensor, others: Tensor) -> Iterator[Tensor]:
    for name, value in (("boxes", boxes), ("others", others)):
        if value.shape[-1:] != (4,):
            raise ValueError(f"{name} must have shape (..., 4), got {tuple(value.shape)}")
        yield value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _intersection_union(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    size = torch.min(boxes[..., 2:], others[..., 2:]) - torch.max(boxes[..., :2], others[..., :2])
    size = size.clamp(min=0)
    inter = size[..., 0] * size[..., 1]
    return inter, _area(boxes) + _area(others) - inter


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
