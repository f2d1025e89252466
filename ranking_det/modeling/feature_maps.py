"""Flatten predictions on feature maps to rows in the order of the anchors; mask the padding.

Shapes: N images, A anchors per cell, K classes, H_l x W_l cells of level l, R_l = H_l W_l A anchors
of level l of one image, R = N x sum of the R_l rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

PAD = 32
"""Image sizes are rounded up to a multiple of this, as in the published ranking detectors."""


class MapPredictions(NamedTuple):
    """Predictions of a head on the map of each level, for the A anchors of each cell."""

    logits: list[Tensor]
    """One tensor (N, A K, H_l, W_l) per level, raw class scores."""
    outputs: list[Tensor]
    """One tensor (N, A 4, H_l, W_l) per level, raw box outputs."""
    branch: list[Tensor] | None = None
    """One tensor (N, A, H_l, W_l) per level, the logits of an IoU or centerness branch, if any."""
    coefficients: list[Tensor] | None = None
    """One tensor (N, A C, H_l, W_l) per level, the mask coefficients, for detectors with masks."""


class MapHead(nn.Module):
    """Base class of heads on feature maps; its attributes let a detector check that the head fits.

    Attributes:
        num_classes: K.
        num_anchors: A, anchors per cell.
        scales: one factor of the box outputs per level, or None.
        branch: the layer of an IoU or centerness branch, or None.
    """

    num_classes: int
    num_anchors: int
    scales: nn.Parameter | None
    branch: nn.Module | None


def flatten_level(maps: Tensor, num_values: int) -> Tensor:
    """Flatten the map of one level to rows in the order of Detectron2's anchors.

    Args:
        maps: (N, A V, H, W).
        num_values: V, values per anchor.

    Returns:
        (N, H W A, V).
    """
    num_images, _, height, width = maps.shape
    maps = maps.view(num_images, -1, num_values, height, width)
    return maps.permute(0, 3, 4, 1, 2).reshape(num_images, -1, num_values)


def flatten_levels(maps: Sequence[Tensor], num_values: int) -> Tensor:
    """Flatten the maps of all levels to rows: image-major, then level, cell and anchor.

    Args:
        maps: one tensor (N, A V, H_l, W_l) per level.
        num_values: V, values per anchor.

    Returns:
        (R, V).
    """
    return torch.cat([flatten_level(level, num_values) for level in maps], dim=1).flatten(0, 1)


def image_and_level(
    num_images: int, sizes: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the image index and the level index of every row.

    Args:
        num_images: N.
        sizes: R_l of each level.
        device: the device of the result.

    Returns:
        The image (R,) and the level (R,), int64.
    """
    image = torch.arange(num_images, device=device).repeat_interleave(sum(sizes))
    level = torch.cat([torch.full((size,), i, device=device) for i, size in enumerate(sizes)])
    return image, level.repeat(num_images)


def valid_cells(
    image_sizes: Sequence[tuple[int, int]],
    grid_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    num_anchors: Sequence[int],
    device: torch.device,
) -> Tensor:
    """Find the rows (anchors) outside the padding of the batch.

    Detectron2 pads all images to the size of the largest and counts anchors in the padding as
    negatives. The papers' detectors ignore them. A cell is valid if its top left corner is inside
    the image, with the image's sides rounded up to a multiple of PAD.

    Args:
        image_sizes: (height, width) of each image in pixels, before padding.
        grid_sizes: (H_l, W_l) of each level in cells.
        strides: the stride of each level, in pixels per cell.
        num_anchors: the anchors per cell of each level.
        device: the device of the result.

    Returns:
        (R,) bool, image-major, then level, cell and anchor.
    """
    masks = []
    for size in image_sizes:
        height, width = (-(-int(side) // PAD) * PAD for side in size)
        for grid, stride, count in zip(grid_sizes, strides, num_anchors, strict=True):
            # Built on the host, so that a single copy to the device is enough.
            mask = torch.zeros(*grid, count, dtype=torch.bool)
            mask[: -(-height // stride), : -(-width // stride)] = True
            masks.append(mask.reshape(-1))
    return torch.cat(masks).to(device)


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps bilinearly; the corners of the images, not of the pixels, are aligned.

    Args:
        maps: (N, C, H, W); N and C may be 0.
        size: (height, width).

    Returns:
        (N, C, height, width).
    """
    if not maps.numel():  # interpolate rejects it
        return maps.new_zeros(*maps.shape[:2], *size)
    return functional.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
