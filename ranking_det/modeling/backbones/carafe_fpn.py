"""FPN with CARAFE upsampling: the neck of the "+" models of Rank & Sort Loss.

CARAFE: J. Wang et al., ICCV 2019. Rank & Sort Loss: K. Oksuz et al., ICCV 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone import build_resnet_backbone
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn

from ranking_det.checks import check_that
from ranking_det.layers import CARAFE


class CARAFEFPN(Backbone):
    """Feature pyramid network (FPN) with CARAFE upsampling and one extra level.

    The extra level (P6 for C2 to C5) is a 3x3 convolution of stride 2 on the last feature. The
    top-down path starts from it: each level is upsampled and added to the level below. Every level
    has a 3x3 output convolution.

    If the feature below has an odd size, the upsampled map is one pixel larger and is cropped at
    the right and the bottom. Layers that Detectron2's FPN has as well have the same names.

    Args:
        bottom_up: the bottom-up network, any Detectron2 backbone.
        in_features: names of its features, from high to low resolution; strides double from one to
            the next.
        out_channels: channels of all levels, >= 1.
        norm: normalization of all convolutions except CARAFE's, as for Detectron2's ``get_norm``;
            "" for none.

    Raises:
        ValueError: the bottom-up network does not have a feature, or the strides do not
            double.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int = 256,
        norm: str | Callable[[int], nn.Module] = "",
    ) -> None:
        super().__init__()
        stages = _stages(bottom_up.output_shape(), in_features)
        channels = [bottom_up.output_shape()[name].channels for name in in_features]
        top_stage = stages[-1] + 1

        def convolution(inputs: int, size: int, stride: int = 1) -> Conv2d:
            bias, layer_norm = norm == "", get_norm(norm, out_channels)
            layer = Conv2d(
                inputs, out_channels, size, stride, size // 2, bias=bias, norm=layer_norm
            )
            c2_xavier_fill(layer)
            return layer

        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        self.stages = (*stages, top_stage)
        for stage, inputs in zip(stages, channels, strict=True):
            self.add_module(f"fpn_lateral{stage}", convolution(inputs, 1))
            self.add_module(f"fpn_upsample{stage + 1}", CARAFE(out_channels))
        self.add_module(f"fpn_lateral{top_stage}", convolution(channels[-1], 3, stride=2))
        for stage in self.stages:
            self.add_module(f"fpn_output{stage}", convolution(out_channels, 3))
        self._out_features = [f"p{stage}" for stage in self.stages]
        self._out_feature_strides = {f"p{stage}": 2**stage for stage in self.stages}
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)

    @property
    def size_divisibility(self) -> int:
        """Images are padded to a multiple of this number, the stride of the last feature.

        It is 32 for C5, as in Detectron2's FPN and in the papers. Only the upsampled extra level
        may need cropping then; padding to a multiple of twice this number would avoid it.
        """
        return 2 ** self.stages[-2]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the feature pyramid.

        Args:
            images: (N, 3, H, W), the input of the bottom-up network.

        Returns:
            "p<stage>" -> (N, out_channels, H / 2^stage, W / 2^stage), sizes rounded up, from high
            to low resolution.
        """
        features = self.bottom_up(images)
        inputs = [features[name] for name in self.in_features]
        levels = [self._layer("lateral", self.stages[-1])(inputs[-1])]
        for stage, feature in zip(self.stages[-2::-1], inputs[::-1], strict=True):
            lateral = self._layer("lateral", stage)(feature)
            upsampled = self._layer("upsample", stage + 1)(levels[-1])
            height, width = lateral.shape[-2:]
            levels.append(lateral + upsampled[..., :height, :width])
        return {
            f"p{stage}": self._layer("output", stage)(level)
            for stage, level in zip(self.stages, levels[::-1], strict=True)
        }

    def _layer(self, kind: str, stage: int) -> nn.Module:
        return self.get_submodule(f"fpn_{kind}{stage}")


@BACKBONE_REGISTRY.register()
def build_resnet_carafe_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> CARAFEFPN:
    """Build a ResNet or ResNeXt with a CARAFE FPN from a yaml config.

    Args:
        cfg: a Detectron2 config with MODEL.RESNETS and MODEL.FPN.
        input_shape: the shape of the images.

    Returns:
        The backbone.

    Raises:
        ValueError: the features do not fit; see :class:`CARAFEFPN`.
    """
    node = cfg.MODEL.FPN
    bottom_up = build_resnet_backbone(cfg, input_shape)
    return CARAFEFPN(bottom_up, node.IN_FEATURES, node.OUT_CHANNELS, node.NORM)


def _stages(shapes: dict[str, ShapeSpec], in_features: Sequence[str]) -> list[int]:
    """Check the features and return the base-2 logarithms of their strides."""
    are_known = bool(in_features) and set(in_features) <= set(shapes)
    expected = f"some of the bottom-up network's features {', '.join(shapes)}"
    check_that(are_known, "in_features", expected, list(in_features))
    strides = [shapes[name].stride for name in in_features]
    stages = [stride.bit_length() - 1 for stride in strides]
    doubling = strides == [2 ** (stages[0] + i) for i in range(len(strides))]
    expected = "strides that are powers of 2 and double from one feature to the next"
    check_that(doubling, "in_features", expected, dict(zip(in_features, strides, strict=True)))
    return stages
