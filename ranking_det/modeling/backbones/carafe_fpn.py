"""FPN whose top-down path upsamples with CARAFE: the neck of the "+" models of Rank & Sort Loss.

CARAFE: J. Wang et al., ICCV 2019. Rank & Sort: K. Oksuz et al., ICCV 2021.
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
    """FPN with content-aware upsampling, on any bottom-up network, and one level more than its own.

    The extra level (P6 on C2 to C5) is a 3x3 convolution of stride 2 on the last feature, and the
    start of the top-down path: it is upsampled and added to the level below, and so on. Every level
    has a 3x3 output convolution.

    A map that is one pixel larger after upsampling than the feature below (of odd size) is cropped
    to it, at its right and lower end. The layers that Detectron2's FPN has too have its names.

    Args:
        bottom_up: the bottom-up network, by its ``output_shape``.
        in_features: which of its features, from high to low resolution, each of half the last's.
        out_channels: channels of all levels.
        norm: of all convolutions but CARAFE's, as Detectron2's ``get_norm`` takes it; "" for none.

    Raises:
        ValueError: a feature that the bottom-up network does not have, or strides that do not
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
        top = stages[-1] + 1

        def convolution(inputs: int, size: int, stride: int = 1) -> Conv2d:
            bias, layer_norm = norm == "", get_norm(norm, out_channels)
            layer = Conv2d(
                inputs, out_channels, size, stride, size // 2, bias=bias, norm=layer_norm
            )
            c2_xavier_fill(layer)
            return layer

        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        self.stages = (*stages, top)
        for stage, inputs in zip(stages, channels, strict=True):
            self.add_module(f"fpn_lateral{stage}", convolution(inputs, 1))
            self.add_module(f"fpn_upsample{stage + 1}", CARAFE(out_channels))
        self.add_module(f"fpn_lateral{top}", convolution(channels[-1], 3, stride=2))
        for stage in self.stages:
            self.add_module(f"fpn_output{stage}", convolution(out_channels, 3))
        self._out_features = [f"p{stage}" for stage in self.stages]
        self._out_feature_strides = {f"p{stage}": 2**stage for stage in self.stages}
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)

    @property
    def size_divisibility(self) -> int:
        """The last feature's stride, as of Detectron2's FPN: 32 on C5, as in the papers.

        Then all is exact but for the extra level, which may be cropped; twice as much padding would
        avoid that.
        """
        return 2 ** self.stages[-2]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Make the pyramid.

        Args:
            images: (N, 3, H, W), what the bottom-up network takes.

        Returns:
            "p<stage>" -> (N, out_channels, H / 2^stage, W / 2^stage), from high to low resolution.
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
    """Build a ResNet or ResNeXt with this FPN from MODEL.RESNETS and MODEL.FPN of a yaml config."""
    node = cfg.MODEL.FPN
    bottom_up = build_resnet_backbone(cfg, input_shape)
    return CARAFEFPN(bottom_up, node.IN_FEATURES, node.OUT_CHANNELS, node.NORM)


def _stages(shapes: dict[str, ShapeSpec], in_features: Sequence[str]) -> list[int]:
    """The base-2 logarithms of the features' strides."""
    known = bool(in_features) and set(in_features) <= set(shapes)
    expected = f"some of the bottom-up network's {', '.join(shapes)}"
    check_that(known, "in_features", expected, list(in_features))
    strides = [shapes[name].stride for name in in_features]
    stages = [stride.bit_length() - 1 for stride in strides]
    doubling = strides == [2 ** (stages[0] + i) for i in range(len(strides))]
    expected = "strides that are powers of 2 and double from one feature to the next"
    check_that(doubling, "in_features", expected, dict(zip(in_features, strides, strict=True)))
    return stages
