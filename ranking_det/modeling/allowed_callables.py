"""Functions, and classes of Detectron2, that config files may call to build models.

Run configs are checked against these names before anything is imported; see
:mod:`ranking_det.engine.safe_config`. The components of this package are allowed, too.
"""

from __future__ import annotations

CALLABLE_NAMES = {
    "detectron2.layers": "ShapeSpec",
    "detectron2.modeling": "FPN GeneralizedRCNN ResNet",
    "detectron2.modeling.ResNet": "make_default_stages make_stage",
    "detectron2.modeling.anchor_generator": "DefaultAnchorGenerator",
    "detectron2.modeling.backbone": "BasicStem fpn.LastLevelMaxPool fpn.LastLevelP6P7",
    "detectron2.modeling.box_regression": "Box2BoxTransform",
    "detectron2.modeling.poolers": "ROIPooler",
    "detectron2.modeling.proposal_generator": "StandardRPNHead",
    "detectron2.modeling.roi_heads": "FastRCNNConvFCHead MaskRCNNConvUpsampleHead",
    "ranking_det.modeling": "backbones.efficientnet_lite.efficientnet_lite0",
}
"""Classes and functions, by the module from which configs import them."""

CALLABLE_ARGUMENTS = (
    "detectron2.modeling.backbone.resnet.BasicBlock",
    "detectron2.modeling.backbone.resnet.BottleneckBlock",
    "ranking_det.modeling.backbones.backbone_parts.FrozenStatisticsBatchNorm2d",
    "ranking_det.modeling.backbones.res2net.Res2NetBlock",
)
"""Classes that configs pass as arguments, such as a residual block or a norm. The functions that
receive them call them with arguments from the config."""
