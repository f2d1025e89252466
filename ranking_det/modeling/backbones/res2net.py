"""Res2Net v1d: multi-scale residual blocks for Detectron2's ResNet (S. Gao et al., TPAMI 2021).

The blocks and the stem are parts of Detectron2's ResNet; a network is composed in a config.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from detectron2.layers import CNNBlockBase, Conv2d, get_norm
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn
from torch.nn import functional

from ranking_det.checks import check_integer, check_that

Norm = str | Callable[[int], nn.Module]


class DeepStem(CNNBlockBase):
    """Stem of three 3x3 convolutions and a max pooling, stride 4 in total (ResNet-C, ResNet-D).

    Args:
        in_channels: channels of the image, >= 1.
        out_channels: channels of the output, an even number >= 2; the first two convolutions have
            half of them.
        norm: normalization, as for Detectron2's ``get_norm``.
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm: Norm = "BN") -> None:
        check_integer("out_channels", out_channels, 2)
        check_that(out_channels % 2 == 0, "out_channels", "an even number", out_channels)
        super().__init__(in_channels, out_channels, 4)
        half = out_channels // 2
        self.conv1 = _convolution(in_channels, half, norm, stride=2)
        self.conv2 = _convolution(half, half, norm)
        self.conv3 = _convolution(half, out_channels, norm)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features of stride 4.

        Args:
            images: (N, in_channels, H, W).

        Returns:
            (N, out_channels, ceil(H / 4), ceil(W / 4)).
        """
        features = images
        for layer in (self.conv1, self.conv2, self.conv3):
            features = functional.relu(layer(features))
        return functional.max_pool2d(features, kernel_size=3, stride=2, padding=1)


class Res2NetBlock(CNNBlockBase):
    """Bottleneck block with a cascade of 3x3 convolutions on the parts of its channels.

    After a 1x1 convolution the channels are split into ``scale`` parts of ``w`` channels. Each part
    except the last has a 3x3 convolution, whose input is the part plus the output of the previous
    convolution. The last part does not change. In the first block of a stage nothing is added, the
    convolutions have the stage's stride, and the last part is pooled. The shortcut is then an
    average pooling with the stage's stride and a 1x1 convolution (v1d).

    Args:
        in_channels: channels of the input, >= 1. The block is the first of its stage if this is not
            ``out_channels``.
        out_channels: channels of the output, >= 1.
        bottleneck_channels: channels of a plain bottleneck's 3x3 convolution, >= 1;
            ``ResNet.make_default_stages`` gives a quarter of ``out_channels``.
        stride: 1 or 2.
        norm: normalization, as for Detectron2's ``get_norm``.
        base_width: w of a block with 64 ``bottleneck_channels``, >= 1; w is proportional to
            ``bottleneck_channels``.
        scale: the number of parts, >= 2.
        pools_at_stride_1: whether the first block of a stage with stride 1 (res2) pools the last
            part. The authors' code and timm pool it, mmdetection does not. Use the setting with
            which the weights were trained.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        norm: Norm = "BN",
        base_width: int = 26,
        scale: int = 4,
        pools_at_stride_1: bool = True,
    ) -> None:
        check_integer("bottleneck_channels", bottleneck_channels, 1)
        check_integer("base_width", base_width, 1)
        check_integer("scale", scale, 2)
        is_first = in_channels != out_channels
        check_that(is_first or stride == 1, "stride", "1 in a block without shortcut", stride)
        super().__init__(in_channels, out_channels, stride)
        width = bottleneck_channels * base_width // 64
        self.is_first = is_first
        self.conv1 = _convolution(in_channels, scale * width, norm, kernel_size=1)
        self.convs = nn.ModuleList(
            _convolution(width, width, norm, stride=stride) for _ in range(scale - 1)
        )
        self.conv3 = _convolution(scale * width, out_channels, norm, kernel_size=1)
        self.pool = None
        if is_first and (stride > 1 or pools_at_stride_1):
            self.pool = nn.AvgPool2d(3, stride, padding=1)
        self.shortcut = None
        if is_first:
            pool = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
            self.shortcut = nn.Sequential(
                pool, _convolution(in_channels, out_channels, norm, kernel_size=1)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Compute the output of the block.

        Args:
            features: (N, in_channels, H, W).

        Returns:
            (N, out_channels, ceil(H / stride), ceil(W / stride)).
        """
        *parts, unsplit = functional.relu(self.conv1(features)).chunk(len(self.convs) + 1, dim=1)
        outputs: list[Tensor] = []
        for part, layer in zip(parts, self.convs, strict=True):
            is_summed = outputs and not self.is_first
            outputs.append(functional.relu(layer(part + outputs[-1] if is_summed else part)))
        outputs.append(unsplit if self.pool is None else self.pool(unsplit))
        shortcut = features if self.shortcut is None else self.shortcut(features)
        return functional.relu(self.conv3(torch.cat(outputs, dim=1)) + shortcut)


def _convolution(
    inputs: int, outputs: int, norm: Norm, *, kernel_size: int = 3, stride: int = 1
) -> Conv2d:
    layer = Conv2d(
        inputs,
        outputs,
        kernel_size,
        stride,
        kernel_size // 2,
        bias=False,
        norm=get_norm(norm, outputs),
    )
    c2_msra_fill(layer)
    return layer
