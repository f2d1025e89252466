"""Crop masks to boxes: the pixels of a mask that are inside a box.

Shapes: n boxes, h x w pixels of a mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ranking_det.checks import check_that


def pixels_inside(boxes: Tensor, height: int, width: int, *, margin: float = 0.0) -> Tensor:
    """Find the pixels with their centers inside boxes that are grown by a margin on each side.

    The pixel in row r and column c has its center at (c + 1/2, r + 1/2). YOLACT crops masks to
    boxes that are grown by one pixel of the mask (Bolya et al., ICCV 2019, section 3.2).

    Args:
        boxes: (n, 4) float, XYXY in pixels of the mask; they may extend beyond it.
        height: h, >= 0.
        width: w, >= 0.
        margin: pixels that a box grows on each side.

    Returns:
        (n, h, w) bool.

    Raises:
        ValueError: the shape of the boxes is not (n, 4).

    >>> pixels_inside(torch.tensor([[1., 0., 2., 1.]]), 2, 3)
    tensor([[[False,  True, False],
             [False, False, False]]])
    """
    check_that(boxes.dim() == 2 and boxes.shape[1] == 4, "boxes", "shape (n, 4)", boxes)
    x1, y1, x2, y2 = boxes[:, :, None].float().unbind(1)
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device) + 0.5
    columns = (x >= x1 - margin) & (x < x2 + margin)
    rows = (y >= y1 - margin) & (y < y2 + margin)
    return rows[:, :, None] & columns[:, None, :]
