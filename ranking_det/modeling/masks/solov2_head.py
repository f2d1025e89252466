"""Heads of SOLOv2: class scores and mask kernels on grids, and the features of the masks.

Shapes: N images, S x S cells of a level, K classes, E channels of the mask features (h x w pixels).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn

from ranking_det.checks import check_integer, check_that
from ranking_det.modeling.feature_maps import resize
from ranking_det.modeling.initialization import initialize_normal, prior_logit

__all__ = ["SOLOv2Head"]


class GridPredictions(NamedTuple):
    """Raw outputs of the head."""

    logits: list[Tensor]
    """One tensor (N, K, S, S) per level, raw class scores."""
    kernels: list[Tensor]
    """One tensor (N, E, S, S) per level, the kernel of the mask of each cell."""
    mask_features: Tensor
    """(N, E, h, w), at the stride of the finest feature."""


class SOLOv2Head(nn.Module):
    """The head of SOLOv2 (Wang et al., NeurIPS 2020): category, kernel and mask feature branch.

    Each level is resized to a grid of S x S cells. Two towers of 3x3 convolutions, shared by all
    levels, predict for each cell the class scores and a kernel: the E weights of the 1x1
    convolution of the mask features that gives the mask of the cell. Kernel tower and mask features
    also get the coordinates of the pixels.

    The finest feature is halved for its grid, and the coarsest one is enlarged to the size of the
    one before it. The mask features come from all features but the coarsest.

    Args:
        in_channels: channels of every feature, >= 1.
        num_classes: K, >= 1.
        grids: S of each level, the finest first, each >= 1; at least 3 levels.
        num_convs: 3x3 convolutions in each tower, >= 0; 4 in the paper, 2 in the light model.
        channels: channels of the towers, >= 1; 512 in the paper, 256 in the light model.
        kernel_channels: E, >= 1; 256 in the paper, 128 in the light model.
        mask_channels: channels of the mask feature branch before its last convolution, >= 1.
        norm: normalization of all convolutions except the outputs, a name for Detectron2's
            ``get_norm``; ``"GN"`` is group normalization with 32 groups.
        prior_prob: initial score of every class, in (0, 1).

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        grids: Sequence[int] = (40, 36, 24, 16, 12),
        num_convs: int = 4,
        channels: int = 512,
        kernel_channels: int = 256,
        mask_channels: int = 128,
        norm: str = "GN",
        prior_prob: float = 0.01,
    ) -> None:
        super().__init__()
        check_integer("num_convs", num_convs, 0)
        check_that(len(grids) > 2, "grids", "at least 3 levels", list(grids))
        for size in grids:
            check_integer("grids", size, 1)
        self.num_classes = num_classes
        self.grids = list(grids)
        self.kernel_channels = kernel_channels
        self.category_tower = _tower(in_channels, channels, num_convs, norm)
        self.kernel_tower = _tower(in_channels + 2, channels, num_convs, norm)
        outputs = channels if num_convs else in_channels
        self.category = nn.Conv2d(outputs, num_classes, 3, padding=1)
        self.kernel = nn.Conv2d(
            outputs if num_convs else outputs + 2, kernel_channels, 3, padding=1
        )
        last = len(grids) - 2
        self.mask_convs = nn.ModuleList(
            nn.ModuleList(
                _conv(
                    (in_channels + (2 if i == last else 0)) if j == 0 else mask_channels,
                    mask_channels,
                    norm,
                )
                for j in range(max(i, 1))
            )
            for i in range(last + 1)
        )
        self.mask_output = _conv(mask_channels, kernel_channels, norm, size=1)
        initialize_normal(self)
        nn.init.constant_(self.category.bias, prior_logit(prior_prob))

    def forward(self, features: Sequence[Tensor]) -> GridPredictions:
        """Predict class scores and kernels on every grid, and the mask features.

        Args:
            features: one tensor (N, in_channels, H_l, W_l) per level, the finest first.

        Returns:
            The predictions.

        Raises:
            ValueError: the number of levels is not that of ``grids``.
        """
        count = len(self.grids)
        check_that(
            len(features) == count, "features", f"{count} levels, as in grids", len(features)
        )
        finest, *middle, coarsest = features
        half = [max(1, side // 2) for side in finest.shape[-2:]]
        levels = [resize(finest, half), *middle, resize(coarsest, middle[-1].shape[-2:])]
        logits, kernels = [], []
        for level, size in zip(levels, self.grids, strict=True):
            cells = resize(append_coordinates(level), (size, size))
            logits.append(self.category(self.category_tower(cells[:, :-2])))
            kernels.append(self.kernel(self.kernel_tower(cells)))
        return GridPredictions(logits, kernels, self._mask_features(features[:-1]))

    def _mask_features(self, features: Sequence[Tensor]) -> Tensor:
        total: Tensor | None = None
        for i, (level, convs) in enumerate(zip(features, self.mask_convs, strict=True)):
            if i == len(features) - 1:
                level = append_coordinates(level)
            for j, conv in enumerate(convs):
                level = conv(level)
                if i:
                    # To the size of the next finer feature: twice, if the sides are even.
                    level = resize(level, features[i - 1 - j].shape[-2:])
            total = level if total is None else total + level
        result: Tensor = self.mask_output(total)
        return result


def append_coordinates(maps: Tensor) -> Tensor:
    """Append the coordinates of the pixels, as in CoordConv (R. Liu et al., NeurIPS 2018).

    Args:
        maps: (N, C, H, W).

    Returns:
        (N, C + 2, H, W): the maps, x and y. Both are -1 in the first column or row and 1 in the
        last, with equal steps.

    >>> append_coordinates(torch.zeros(1, 0, 2, 3))[0, 0]
    tensor([[-1.,  0.,  1.],
            [-1.,  0.,  1.]])
    """
    height, width = maps.shape[-2:]
    y, x = (torch.linspace(-1, 1, n, device=maps.device, dtype=maps.dtype) for n in (height, width))
    coordinates = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
    return torch.cat([maps, coordinates.expand(len(maps), 2, height, width)], dim=1)


def _conv(inputs: int, outputs: int, norm: str, size: int = 3) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=not norm)]
    if norm:
        layers.append(get_norm(norm, outputs))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def _tower(inputs: int, outputs: int, count: int, norm: str) -> nn.Sequential:
    return nn.Sequential(
        *(_conv(inputs if i == 0 else outputs, outputs, norm) for i in range(count))
    )
