"""IoU and GIoU of boxes, for assigners, criteria and layers.

Computed in float32 or better: areas in an image of 1333 pixels overflow float16.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

EPS = 1e-7
"""Smallest denominator, in square pixels: two empty boxes have IoU 0 and finite gradients."""


def box_iou(boxes: Tensor, other_boxes: Tensor) -> Tensor:
    """Compute the intersection over union (IoU) of boxes, with broadcasting.

    The area of the intersection divided by the area of the union, as in PASCAL VOC (Everingham et
    al., IJCV 2010).

    Args:
        boxes: (..., 4) float, XYXY in pixels, x2 >= x1 and y2 >= y1.
        other_boxes: (..., 4) float, XYXY in pixels; (G, 1, 4) with (R, 4) gives all pairs (G, R).

    Returns:
        (...) in [0, 1], float32 or better, with gradient.

    Raises:
        ValueError: the last dimension of an argument is not 4.

    >>> box_iou(torch.tensor([[0., 0., 2., 2.]]), torch.tensor([[0., 0., 2., 1.]]))
    tensor([0.5000])
    """
    boxes, other_boxes = _prepare(boxes, other_boxes)
    inter, union = _intersection_union(boxes, other_boxes)
    return inter / union.clamp(min=EPS)


def box_giou(boxes: Tensor, other_boxes: Tensor) -> Tensor:
    """Compute the generalized IoU (GIoU) of boxes, with broadcasting.

    The IoU minus the fraction of the smallest enclosing box that neither box covers (Rezatofighi
    et al., CVPR 2019, algorithm 1).

    Args:
        boxes: (..., 4) float, XYXY in pixels, x2 >= x1 and y2 >= y1.
        other_boxes: (..., 4) float, XYXY in pixels.

    Returns:
        (...) in [-1, 1], float32 or better, with gradient.

    Raises:
        ValueError: the last dimension of an argument is not 4.

    >>> box_giou(torch.tensor([[0., 0., 1., 1.]]), torch.tensor([[1., 1., 2., 2.]]))
    tensor([-0.5000])
    """
    boxes, other_boxes = _prepare(boxes, other_boxes)
    inter, union = _intersection_union(boxes, other_boxes)
    lower = torch.min(boxes[..., :2], other_boxes[..., :2])
    size = torch.max(boxes[..., 2:], other_boxes[..., 2:]) - lower
    hull = size[..., 0] * size[..., 1]
    return inter / union.clamp(min=EPS) - (hull - union) / hull.clamp(min=EPS)


def _prepare(boxes: Tensor, other_boxes: Tensor) -> Iterator[Tensor]:
    for name, value in (("boxes", boxes), ("other_boxes", other_boxes)):
        if value.shape[-1:] != (4,):
            raise ValueError(f"{name}: expected shape (..., 4), got {tuple(value.shape)}")
        yield value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _intersection_union(boxes: Tensor, other_boxes: Tensor) -> tuple[Tensor, Tensor]:
    lower = torch.max(boxes[..., :2], other_boxes[..., :2])
    size = (torch.min(boxes[..., 2:], other_boxes[..., 2:]) - lower).clamp(min=0)
    inter = size[..., 0] * size[..., 1]
    return inter, _area(boxes) + _area(other_boxes) - inter


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
