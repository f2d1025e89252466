"""Ground-truth masks for SOLOv2: their centers of mass, and smaller targets.

Shapes: G objects of one image of H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

STRIDE = 4
"""Pixels of the image per pixel of a target, in both directions."""


def center_boxes(boxes: Tensor, masks: Tensor) -> Tensor:
    """Move boxes so that their centers are the centers of mass of the masks.

    Args:
        boxes: (G, 4) XYXY in pixels.
        masks: (G, H, W) bool. The box of an empty mask does not move.

    Returns:
        (G, 4) XYXY in pixels, of the same sizes.
    """
    area = masks.sum(dim=(1, 2))
    x, y = (
        (masks.sum(dim=dim) * (torch.arange(masks.shape[3 - dim], device=masks.device) + 0.5)).sum(
            1
        )
        for dim in (1, 2)
    )
    centers = torch.stack([x, y], dim=1).to(boxes) / area.clamp(min=1)[:, None]
    shift = centers - (boxes[:, :2] + boxes[:, 2:]) / 2
    return torch.where(area[:, None] > 0, boxes + shift.repeat(1, 2), boxes)


def shrink_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize masks to a quarter of their size, as training targets.

    A target pixel is set if at least two of the four pixels in the middle of its 4 x 4 pixels are
    set, as bilinear interpolation and rounding give it. A small mask may become empty.

    Args:
        masks: (G, H, W) bool.
        size: (h, w) of the result; the masks are in the top left corner of 4 h x 4 w pixels.

    Returns:
        (G, h, w) bool.
    """
    height, width = (STRIDE * side for side in size)
    padding = (0, width - masks.shape[2], 0, height - masks.shape[1])
    padded = functional.pad(masks, padding).to(torch.uint8)
    first, second = STRIDE // 2 - 1, STRIDE // 2
    return (
        sum(padded[:, y::STRIDE, x::STRIDE] for y in (first, second) for x in (first, second)) >= 2
    )
