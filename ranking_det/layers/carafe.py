"""CARAFE: content-aware reassembly of features for upsampling (J. Wang et al., ICCV 2019).

Shapes: N images, C channels in g groups of C/g, coarse maps of H x W, scale s, k x k kernels.
Internally, tensors are ordered by coarse pixel and group, so the reassembly is a batched
matrix product of (s^2, k^2) kernels with (k^2, C/g) windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ranking_det.checks import check_integer, check_that
from ranking_det.row_blocks import blocks

BLOCK_ENTRIES = {"cpu": 1 << 21}
"""Entries of a block of windows, by device type. On a CPU a block fits into the cache. Other
devices use larger blocks, so there are fewer operations."""


def carafe(features: Tensor, kernels: Tensor, kernel_size: int, group: int, scale: int) -> Tensor:
    """Upsample features by reassembly with given kernels (section 3.3).

    The fine pixel (i, j) is the sum of the k x k window around the coarse pixel (i // s, j // s),
    weighted by the kernel at (i, j). The window is zero beyond the border. The result is linear in
    each of the two inputs and has gradients for both. Only the windows of a few rows are in memory
    at a time, and only the inputs are saved for the backward pass.

    Args:
        features: (N, C, H, W) float.
        kernels: (N, g * k * k, s * H, s * W) float: for one group after another, the window row by
            row. The C/g consecutive channels of a group share a kernel. The kernels are not
            normalized; they are converted to the features' dtype.
        kernel_size: k, odd, >= 1.
        group: g, a divisor of C, >= 1.
        scale: s, >= 1.

    Returns:
        (N, C, s * H, s * W), of the features' dtype.

    Raises:
        ValueError: a shape or device is not as described, or an argument is out of range.

    >>> kernels = torch.full((1, 9, 2, 4), 1 / 9)
    >>> carafe(torch.tensor([[[[9., 18.]]]]), kernels, kernel_size=3, group=1, scale=2)
    tensor([[[[3., 3., 3., 3.],
              [3., 3., 3., 3.]]]])
    """
    check_integer("group", group, 1)
    check_integer("scale", scale, 1)
    _check_odd("kernel_size", kernel_size)
    is_valid = (
        features.dim() == 4 and features.is_floating_point() and features.shape[1] % group == 0
    )
    expected = f"a float tensor (N, C, H, W), C a multiple of group = {group}"
    check_that(is_valid, "features", expected, features)
    images, _, height, width = features.shape
    shape = (images, group * kernel_size**2, scale * height, scale * width)
    is_valid = kernels.shape == shape and kernels.device == features.device
    check_that(is_valid, "kernels", f"shape {shape} on {features.device}", kernels)
    # Under autocast the products would be in half precision.
    with torch.autocast(features.device.type, enabled=False):
        upsampled: Tensor = _Reassembly.apply(features, kernels, kernel_size, group, scale)
    return upsampled


class CARAFE(nn.Module):
    """Content-aware upsampling layer: predict a kernel for each fine pixel and reassemble with it.

    The defaults follow the paper (J. Wang et al., ICCV 2019).

    Args:
        channels: C, >= 1.
        scale: s, the upsampling factor, >= 1.
        up_kernel: k, the size of the window around a coarse pixel, odd, >= 1.
        group: g, the number of channel groups, each with its own kernels; a divisor of C.
        encoder_kernel: kernel size of the convolution that predicts the kernels, odd, >= 1.
        compressed_channels: the number of input channels of that convolution, >= 1.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        channels: int,
        scale: int = 2,
        up_kernel: int = 5,
        group: int = 1,
        encoder_kernel: int = 3,
        compressed_channels: int = 64,
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "scale": scale, "group": group}
        for name, value in {**sizes, "compressed_channels": compressed_channels}.items():
            check_integer(name, value, 1)
        _check_odd("up_kernel", up_kernel)
        _check_odd("encoder_kernel", encoder_kernel)
        check_that(channels % group == 0, "group", f"a divisor of channels = {channels}", group)
        self.scale, self.up_kernel, self.group = scale, up_kernel, group
        self.compressor = nn.Conv2d(channels, compressed_channels, 1)
        weights = scale**2 * up_kernel**2 * group
        self.encoder = nn.Conv2d(compressed_channels, weights, encoder_kernel, padding="same")
        nn.init.xavier_uniform_(self.compressor.weight)
        # Almost equal weights at the start: the output is the mean of each window.
        nn.init.normal_(self.encoder.weight, std=0.001)
        nn.init.zeros_(self.compressor.bias)
        nn.init.zeros_(self.encoder.bias)

    def kernels(self, features: Tensor) -> Tensor:
        """Predict the reassembly kernels, with a softmax over each window (section 3.2).

        Args:
            features: (N, C, H, W) float.

        Returns:
            (N, g * k * k, s * H, s * W) for :func:`carafe`, float32 or better. Each kernel sums
            to 1.
        """
        encoded = functional.pixel_shuffle(self.encoder(self.compressor(features)), self.scale)
        windows = encoded.unflatten(1, (self.group, self.up_kernel**2))
        wide = torch.promote_types(encoded.dtype, torch.float32)
        return windows.softmax(dim=2, dtype=wide).flatten(1, 2)

    def forward(self, features: Tensor) -> Tensor:
        """Upsample features.

        Args:
            features: (N, C, H, W) float.

        Returns:
            (N, C, s * H, s * W), of the features' dtype.
        """
        kernels = self.kernels(features)
        return carafe(features, kernels, self.up_kernel, self.group, self.scale)


class _Reassembly(torch.autograd.Function):
    """Reassemble a few rows at a time, and compute their windows again in the backward pass.

    The windows of all rows would take k^2 times the memory of the features. On a CPU (256 channels,
    upsampled to 200 x 336) autograd through an unfold takes 6 times as long and 13 times the
    memory; autograd through 25 shifted products takes 6 times as long.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, kernels: Tensor, size: int, group: int, scale: int
    ) -> Tensor:
        ctx.save_for_backward(features, kernels)
        ctx.sizes = (size, group, scale)
        padded = _pad(features, size, group)
        weights = _to_cells(kernels.to(features.dtype), group, scale)
        out = features.new_empty(*weights.shape[:-1], padded.shape[-1])
        for image, rows in _blocks(weights, padded):
            out[image, rows] = weights[image, rows] @ _windows(padded[image], rows, size)
        return _to_map(out, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        features, kernels = ctx.saved_tensors
        size, group, scale = ctx.sizes
        padded = _pad(features, size, group)
        weights = _to_cells(kernels.to(features.dtype), group, scale)
        to_out = _to_cells(incoming, group, scale)
        # Each pixel is a sum of k^2 terms, too many for half precision.
        wide = torch.promote_types(padded.dtype, torch.float32)
        to_padded = torch.zeros_like(padded, dtype=wide)
        to_weights = torch.empty_like(weights)
        for image, rows in _blocks(weights, padded):
            gradient, windows = to_out[image, rows], _windows(padded[image], rows, size)
            to_weights[image, rows] = gradient @ windows.mT
            to_windows = weights[image, rows].mT @ gradient
            _add_windows(to_padded[image], to_windows, rows, size)
        border, height, width = size // 2, features.shape[2], features.shape[3]
        to_features = to_padded[:, border : border + height, border : border + width].unsqueeze(4)
        to_kernels = _to_map(to_weights, scale).to(kernels.dtype)
        return _to_map(to_features, 1).to(features.dtype), to_kernels, None, None, None


def _to_cells(fine: Tensor, group: int, scale: int) -> Tensor:
    """Reorder maps (N, g X, s H, s W) to cells (N, H, W, g, s^2, X), contiguous."""
    split = fine.unflatten(3, (-1, scale)).unflatten(2, (-1, scale)).unflatten(1, (group, -1))
    return split.permute(0, 3, 5, 1, 4, 6, 2).flatten(4, 5).contiguous()


def _to_map(cells: Tensor, scale: int) -> Tensor:
    """Reorder cells to maps, the inverse of _to_cells."""
    split = cells.unflatten(4, (scale, scale)).permute(0, 3, 6, 1, 4, 2, 5)
    return split.flatten(5, 6).flatten(3, 4).flatten(1, 2).contiguous()


def _pad(features: Tensor, size: int, group: int) -> Tensor:
    """Pad features with zeros and reorder them to (N, H + k - 1, W + k - 1, g, C/g)."""
    return _to_cells(functional.pad(features, [size // 2] * 4), group, 1).squeeze(4)


def _blocks(weights: Tensor, padded: Tensor) -> Iterator[tuple[int, slice]]:
    """Split each image into blocks of rows, by the number of entries in their windows."""
    images, height, width = weights.shape[:3]
    entries = width * weights.shape[-1] * padded.shape[3:].numel()
    size = BLOCK_ENTRIES.get(weights.device.type, 1 << 26)
    for image in range(images):
        for rows in blocks(height, entries, size):
            yield image, rows


def _windows(padded: Tensor, rows: slice, size: int) -> Tensor:
    """Return the windows (rows, W, g, k^2, C/g) of some rows of one image."""
    block = padded[rows.start : rows.stop + size - 1]
    return block.unfold(0, size, 1).unfold(1, size, 1).permute(0, 1, 2, 4, 5, 3).flatten(3, 4)


def _add_windows(padded: Tensor, windows: Tensor, rows: slice, size: int) -> None:
    """Add windows to the padded features, the adjoint of _windows."""
    width = windows.shape[1]
    for position, part in enumerate(windows.unbind(dim=3)):
        down, right = divmod(position, size)
        padded[rows.start + down : rows.stop + down, right : right + width] += part


def _check_odd(name: str, value: int) -> None:
    check_integer(name, value, 1)
    check_that(value % 2 == 1, name, "an odd number", value)
