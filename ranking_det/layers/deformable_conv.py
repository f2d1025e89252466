"""Deformable convolution v2 (X. Zhu et al., CVPR 2019) for the 3x3 convolutions of a network.

A second convolution predicts, for each output pixel and each of the 9 positions of the kernel, an
offset of the sampling point and a factor (the modulation mask). The convolution itself is
torchvision's ``deform_conv2d``, which has CPU and GPU kernels.

Shapes: N images, C and C' channels, maps of H x W and H' x W', G deformable groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from ranking_det.checks import check_integer, check_that

POSITIONS = 9
"""Positions of a 3x3 kernel, row by row."""


class DeformableConv2d(nn.Module):
    """A 3x3 deformable convolution that takes over the parameters of a plain convolution.

    Channels of the offset layer's output: ``18 g + 2 k`` is the vertical and ``18 g + 2 k + 1`` the
    horizontal offset, in pixels of the input, of position k of the kernel in deformable group g;
    ``18 G + 9 g + k`` is the logit of the mask. Detectron2 and mmdetection have the same order.

    The offset layer starts at zero: no offsets, and a mask of 0.5, so the output is half that of
    the plain convolution, as published. It is the parent's submodule, not this module's, because
    Detectron2's checkpoints have it there (``conv2_offset`` next to ``conv2``).

    Args:
        conv: a 3x3 convolution with zero padding. Its weight and bias are used, as are the ``norm``
            and ``activation`` of Detectron2's Conv2d.
        offset_layer: computes (N, 27 G, H', W') from (N, C, H, W); see :func:`build_offset_layer`.

    Raises:
        ValueError: the convolution is of another kind.
    """

    def __init__(self, conv: nn.Conv2d, offset_layer: nn.Conv2d) -> None:
        super().__init__()
        check_that(_is_replaceable(conv), "conv", "a 3x3 convolution with zero padding", conv)
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.norm: nn.Module | None = getattr(conv, "norm", None)
        self.activation: nn.Module | None = getattr(conv, "activation", None)
        # A tuple, because an attribute would make it a submodule of this module too.
        self._offset_layer = (offset_layer,)

    def forward(self, features: Tensor) -> Tensor:
        """Convolve features at the predicted sampling points, with zeros outside the map.

        Args:
            features: (N, C, H, W) float. Features in half precision are sampled in float32, because
                bfloat16 rounds positions of 64 px or more to half pixels.

        Returns:
            (N, C', H', W'), the shape that the plain convolution returns, of the features' dtype.
        """
        (offset_layer,) = self._offset_layer
        predicted = offset_layer(features)
        wide = torch.promote_types(features.dtype, torch.float32)
        offsets, mask = split_offsets(predicted.to(wide))
        result: Tensor = deform_conv2d(
            features.to(wide),
            offsets,
            self.weight.to(wide),
            None if self.bias is None else self.bias.to(wide),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            mask=mask,
        )
        result = result.to(features.dtype)
        if self.norm is not None:
            result = self.norm(result)
        return result if self.activation is None else self.activation(result)

    def extra_repr(self) -> str:
        """Return the sizes, for ``print``."""
        outputs, inputs = self.weight.shape[0], self._offset_layer[0].in_channels
        groups = self._offset_layer[0].out_channels // (3 * POSITIONS)
        return f"{inputs}, {outputs}, stride={self.stride}, deformable_groups={groups}"


def split_offsets(predicted: Tensor) -> tuple[Tensor, Tensor]:
    """Split the output of an offset layer.

    Args:
        predicted: (N, 27 G, H', W') float.

    Returns:
        Offsets (N, 18 G, H', W') in pixels, vertical before horizontal, and the mask (N, 9 G, H',
        W') from 0 to 1.
    """
    count = predicted.shape[1] // 3
    return predicted[:, : 2 * count], predicted[:, 2 * count :].sigmoid()


def build_offset_layer(conv: nn.Conv2d, deformable_groups: int) -> nn.Conv2d:
    """Build the layer that predicts the offsets and the mask of a convolution, initially zero.

    Args:
        conv: the 3x3 convolution.
        deformable_groups: G, a divisor of its input channels, >= 1. The channels of a group share
            their offsets.

    Returns:
        A 3x3 convolution with bias and 27 G output channels. It is trained if ``conv`` is.

    Raises:
        ValueError: ``deformable_groups`` does not divide the channels.
    """
    check_integer("deformable_groups", deformable_groups, 1)
    is_divisor = conv.in_channels % deformable_groups == 0
    expected = f"a divisor of {conv.in_channels} channels"
    check_that(is_divisor, "deformable_groups", expected, deformable_groups)
    layer = nn.Conv2d(
        conv.in_channels,
        3 * POSITIONS * deformable_groups,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer.requires_grad_(conv.weight.requires_grad)


def _is_3x3(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)


def _is_replaceable(module: nn.Module) -> bool:
    """Return whether a module is a 3x3 convolution that can be made deformable.

    A subclass with another ``forward`` computes something else, such as timm's convolutions with
    SAME padding. Detectron2's Conv2d adds only a norm and an activation, which are kept.
    """
    if not _is_3x3(module) or module.padding_mode != "zeros" or isinstance(module.padding, str):
        return False
    return hasattr(module, "activation") or type(module).forward is nn.Conv2d.forward


def deform_convolutions(
    network: nn.Module, stages: Sequence[str], deformable_groups: int = 1
) -> nn.Module:
    """Replace the 3x3 convolutions of some stages of a network by deformable ones, in place.

    The network's weights stay, under the same names. The offset layer of ``res3.0.conv2`` becomes
    ``res3.0.conv2_offset``, as in Detectron2's deformable blocks; the offset layer of
    convolution 0 in a list ``res3.0.convs`` becomes ``res3.0.convs_0_offset``.

    Args:
        network: any network, such as Detectron2's ResNet, Res2Net or one of timm's.
        stages: the names of submodules, such as "res3" or "layer2".
        deformable_groups: G, a divisor of the channels: 1 in APE Loss, 4 in Rank & Sort Loss.

    Returns:
        The network.

    Raises:
        ValueError: a stage does not exist, or has no 3x3 convolution, one that is deformable
            already, or one with other than zero padding; or ``deformable_groups`` does not divide
            its channels.
    """
    for stage in stages:
        names = dict(network.named_modules())
        parent = stage
        while parent not in names:
            parent = parent.rpartition(".")[0]
        prefix = f"{parent}." if parent else ""
        children = ", ".join(f"{prefix}{name}" for name, _ in names[parent].named_children())
        check_that(stage in names, "stages", f"names of submodules ({children}, ...)", stage)
        layers = [m for m in names.values() if isinstance(m, DeformableConv2d)]
        deformed = {part for layer in layers for part in (layer, *layer._offset_layer)}
        is_plain = deformed.isdisjoint(names[stage].modules())
        check_that(is_plain, "stages", "stages that are not deformable yet", stage)
        convolutions = [name for name, module in names[stage].named_modules() if _is_3x3(module)]
        check_that(bool(convolutions), "stages", "stages with 3x3 convolutions", stage)
        for child in convolutions:
            name = f"{stage}.{child}" if child else stage
            kind = f"{type(names[name]).__name__} {name}"
            expected = "3x3 convolutions with zero padding"
            check_that(_is_replaceable(names[name]), "stages", expected, kind)
            _deform(names, name, deformable_groups)
    return network


def _deform(names: dict[str, nn.Module], name: str, deformable_groups: int) -> None:
    """Replace one convolution. Its offset layer goes to the nearest parent that is not a container.

    A container such as timm's FeatureListNet would run the offset layer as one of its layers.
    """
    conv = names[name]
    layer = build_offset_layer(conv, deformable_groups)
    replacement = DeformableConv2d(conv, layer)
    parent_name, _, child = name.rpartition(".")
    owner_name, layer_name = parent_name, f"{child}_offset"
    while isinstance(names[owner_name], (nn.ModuleList, nn.ModuleDict, nn.Sequential)):
        kind = type(names[owner_name]).__name__
        check_that(bool(owner_name), "network", "a module around the container of layers", kind)
        owner_name, _, container = owner_name.rpartition(".")
        layer_name = f"{container}_{layer_name}"
    setattr(names[parent_name], child, replacement)
    names[owner_name].add_module(layer_name, layer)
