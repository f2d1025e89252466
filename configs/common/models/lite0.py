"""Detectors on EfficientNet-Lite0 with ImageNet weights, for your own images on a CPU.

FPN, heads and anchors are those of the ResNet-18 models. The FPN and the dense heads have group
normalization. Images must be RGB. They are padded to a multiple of 32, so that TensorFlow's "same"
padding of the convolutions, which depends on the size, is the same for all images.
"""

from copy import deepcopy

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from ranking_det.modeling.backbones.efficientnet_lite import (
    PIXEL_MEAN,
    PIXEL_STD,
    efficientnet_lite0,
)

from .backbones import TIMM_FEATURES
from .fcos_r18 import model as fcos_r18
from .rcnn_r18 import faster as faster_r18
from .rcnn_r18 import mask as mask_r18
from .retinanet_r18 import model as retinanet_r18


def on_lite0(model: DictConfig, first_stride: int) -> DictConfig:
    """Replace the backbone below the FPN; the finest feature has ``first_stride``."""
    model = deepcopy(model)
    strides = [stride for stride in (4, 8, 16, 32) if stride >= first_stride]
    model.backbone.bottom_up = L(efficientnet_lite0)(strides=strides)
    model.backbone.in_features = [f"stride{stride}" for stride in strides]
    model.backbone.norm = "GN"
    model.pixel_mean, model.pixel_std = PIXEL_MEAN, PIXEL_STD
    return model


retinanet, fcos = on_lite0(retinanet_r18, 8), on_lite0(fcos_r18, 8)
for model in (retinanet, fcos):
    model.head.norm = "GN"
    model.backbone.top_block.update({"in_channels": 320, "in_feature": TIMM_FEATURES[-1]})
faster, mask = on_lite0(faster_r18, 4), on_lite0(mask_r18, 4)
