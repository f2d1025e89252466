"""FPN for images of any size: bilinear upsampling to the size of the level below, as in YOLACT.

YOLACT: D. Bolya et al., ICCV 2019.
"""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN, build_resnet_backbone
from torch import Tensor

from ranking_det.modeling.backbones.backbone_parts import ExtraLevels
from ranking_det.modeling.feature_maps import resize


class BilinearFPN(FPN):
    """Detectron2's feature pyramid network (FPN) with bilinear upsampling, for any image size.

    The top-down path resizes each level to the size of the level below. Detectron2's FPN doubles
    the size, which fails if the level below has an odd size: it pads images to a multiple of the
    coarsest stride. This one needs no padding. Images of 550 pixels have maps of 69, 35, 18, 9 and
    5 cells.

    The arguments, and the names and shapes of the parameters, are those of Detectron2's FPN, but
    the levels are always summed.

    Args:
        bottom_up: the bottom-up network, any Detectron2 backbone.
        in_features: names of its features, from high to low resolution; strides double from one to
            the next.
        out_channels: channels of all levels, >= 1.
        norm: normalization of the convolutions, as for Detectron2's ``get_norm``; "" for none.
        top_block: computes coarser levels, such as :class:`ExtraLevels`; None for no more levels.
    """

    @property
    def size_divisibility(self) -> int:
        """0: images are padded only to the size of the largest image of the batch."""
        return 0

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the feature pyramid.

        Args:
            images: (N, 3, H, W), the input of the bottom-up network.

        Returns:
            "p<stage>" -> (N, out_channels, H / 2^stage, W / 2^stage), sizes rounded up, from high
            to low resolution.
        """
        features = self.bottom_up(images)
        level, levels = None, []
        inputs = (features[name] for name in self.in_features[::-1])
        for feature, lateral, output in zip(
            inputs, self.lateral_convs, self.output_convs, strict=True
        ):
            below = lateral(feature)
            if level is not None:
                below = below + resize(level, below.shape[-2:])
            level = below
            levels.insert(0, output(level))
        pyramid = dict(zip(self._out_features, levels, strict=False))
        if self.top_block is not None:
            name = self.top_block.in_feature
            extra = self.top_block(features[name] if name in features else pyramid[name])
            pyramid |= zip(self._out_features[len(levels) :], extra, strict=True)
        return pyramid


@BACKBONE_REGISTRY.register()
def build_resnet_bilinear_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> BilinearFPN:
    """Build a ResNet with a bilinear FPN from a yaml config; p6 comes from res5, p7 from p6.

    Args:
        cfg: a Detectron2 config with MODEL.RESNETS and MODEL.FPN.
        input_shape: the shape of the images.

    Returns:
        The backbone.
    """
    node, bottom_up = cfg.MODEL.FPN, build_resnet_backbone(cfg, input_shape)
    channels = bottom_up.output_shape()["res5"].channels
    return BilinearFPN(
        bottom_up,
        node.IN_FEATURES,
        node.OUT_CHANNELS,
        node.NORM,
        ExtraLevels(channels, node.OUT_CHANNELS),
    )
