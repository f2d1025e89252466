"""From predictions on feature maps to rows: the order of anchors, and which are padding.

N images, R_l anchors of level l, R = N x sum of R_l rows in all, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

PAD = 32
"""Images are taken to be padded to a multiple of this, as the published ranking detectors do."""


class MapPredictions(NamedTuple):
    """What a head predicts on each level's map, for the A anchors of each cell."""

    logits: list[Tensor]
    """Per level (N, A K, H_l, W_l), raw class scores."""
    outputs: list[Tensor]
    """Per level (N, A 4, H_l, W_l), raw box outputs."""
    branch: list[Tensor] | None = None
    """Per level (N, A, H_l, W_l), the logits of an IoU or centreness branch, if there is one."""


class MapHead(nn.Module):
    """Base of heads on maps that say what they were made for; a detector checks that it fits.

    Attributes:
        num_classes: K.
        num_anchors: A, anchors per cell.
        scales: a factor of the box outputs per level, or None.
        branch: the layer of an IoU or centreness branch, or None.
    """

    num_classes: int
    num_anchors: int
    scales: nn.Parameter | None
    branch: nn.Module | None


def flatten_level(maps: Tensor, num_values: int) -> Tensor:
    """(N, A V, H, W) to (N, H W A, V): the order of Detectron2's anchors."""
    num_images, _, height, width = maps.shape
    maps = maps.view(num_images, -1, num_values, height, width)
    return maps.permute(0, 3, 4, 1, 2).reshape(num_images, -1, num_values)


def flatten_levels(maps: Sequence[Tensor], num_values: int) -> Tensor:
    """Per level (N, A V, H_l, W_l) to (R, V), image-major, then level, then cell."""
    return torch.cat([flatten_level(level, num_values) for level in maps], dim=1).flatten(0, 1)


def image_and_level(
    num_images: int, sizes: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """The image (R,) and the level (R,) of every row, int64; ``sizes`` are the R_l."""
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
    """Which rows are not in the padding of the batch.

    Detectron2 counts anchors in the padding that the largest image of the batch gives the others as
    negatives; the papers' detectors ignore them. A cell is kept if it begins within the image's own
    size, rounded up to a multiple of PAD.

    Args:
        image_sizes: per image (height, width) in pixels, before padding.
        grid_sizes: per level (H_l, W_l) in cells.
        strides: per level, pixels per cell.
        num_anchors: per level, anchors per cell.
        device: where to put the result.

    Returns:
        (R,) bool, image-major, then level, then cell.
    """
    masks = []
    for size in image_sizes:
        height, width = (-(-int(side) // PAD) * PAD for side in size)
        for grid, stride, count in zip(grid_sizes, strides, num_anchors, strict=True):
            # Made on the host, where the sizes are; one small copy takes them to the device.
            mask = torch.zeros(*grid, count, dtype=torch.bool)
            mask[: -(-height // stride), : -(-width // stride)] = True
            masks.append(mask.reshape(-1))
    return torch.cat(masks).to(device)
