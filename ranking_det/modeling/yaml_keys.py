"""The keys that the project's models add to Detectron2's yaml configs."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from ranking_det.components import build_component
from ranking_det.modeling.interface import DetectorInterface, interface_class

COMPONENTS = {
    "ASSIGNER": "ATSS",
    "CRITERION": "",
    "HEAD": "DenseHead",
    "INFERENCE": "DenseInference",
    "BOX_PREDICTOR": "RankingBoxPredictor",
    "SAMPLER": "",
    "RPN_ASSIGNER": "",
    "RPN_CRITERION": "",
    "RPN_SAMPLER": "",
    "MASK_CRITERION": "MaskDice",
}
"""The nodes under MODEL and their default NAME."""

NUM_CLASSES_KEYS = ("MODEL.RETINANET.NUM_CLASSES", "MODEL.ROI_HEADS.NUM_CLASSES")
"""Where a yaml config of Detectron2's has the number of classes of objects."""


def add_ranking_config(cfg: CfgNode) -> None:
    """Add the project's nodes to one config; Detectron2's defaults stay as they are.

    MODEL.ASSIGNER, MODEL.CRITERION, MODEL.HEAD and MODEL.INFERENCE; SOLVER.EPOCHS and
    SOLVER.REFERENCE_BATCH, 0 for a schedule that stays as it is written. Of the head and the
    inference, what Detectron2 has keys for is taken from MODEL.RETINANET and TEST, for FCOS too.

    For an R-CNN, with RankingRPN and RankingROIHeads as Detectron2's MODEL.PROPOSAL_GENERATOR.NAME
    and MODEL.ROI_HEADS.NAME, MODEL.ASSIGNER, MODEL.CRITERION, MODEL.SAMPLER and MODEL.BOX_PREDICTOR
    (of which Detectron2 has the other keys) are those of the box head, and MODEL.RPN_ASSIGNER and
    so on those of the RPN. With masks, MODEL.MASK_CRITERION is the task on masks that is added to
    MODEL.CRITERION; MODEL.ROI_MASK_HEAD.MAX_ROIS and MODEL.ROI_HEADS.CONTINUOUS_LABEL are as in
    :class:`StagedROIHeads`. A cascade has a mask head in every stage, or, with
    MODEL.ROI_MASK_HEAD.EVERY_STAGE False, only in the first one, as Detectron2's Cascade Mask R-CNN
    does. A sampler without NAME is none. Of Detectron2's keys those for matching, sampling and
    losses have no effect, but for MODEL.RPN.LOSS_WEIGHT.
    MODEL.BACKBONE.NAME may be build_resnet_carafe_fpn_backbone, which reads the keys of
    build_resnet_fpn_backbone (but for MODEL.FPN.FUSE_TYPE).

    Each is a node ``{NAME: class, ARGUMENT: value}``, for the classes of
    :mod:`ranking_det.assigners`, :mod:`ranking_det.criteria` and this package; an argument that is
    a component itself, or a list of them, is a node or a list of nodes of its own. What a component
    takes, and its defaults, are in its constructor, which the node is checked against when it is
    built; there is no default criterion.
    """
    for node, name in COMPONENTS.items():
        cfg.MODEL[node] = CfgNode({"NAME": name}, new_allowed=True)
    cfg.MODEL.ROI_MASK_HEAD.MAX_ROIS = 200
    cfg.MODEL.ROI_MASK_HEAD.EVERY_STAGE = True
    cfg.MODEL.ROI_HEADS.CONTINUOUS_LABEL = "iou"
    # A length in epochs; the batch that the learning rate and the iterations are written for.
    cfg.SOLVER.EPOCHS = 0.0
    cfg.SOLVER.REFERENCE_BATCH = 0


def num_classes_keys(cfg: CfgNode) -> tuple[str, ...]:
    """The key of the number of classes that the config's model names, or else all that there are.

    Of a model that is neither this project's nor adapted, one of them has it.
    """
    key = _interface(cfg).num_classes_key
    return NUM_CLASSES_KEYS if key is None else (key,)


def learns_masks(cfg: CfgNode) -> bool:
    """Whether the config's model needs the objects' masks in training."""
    interface = _interface(cfg)
    key = interface.masks_key
    return interface.learns_masks if key is None else bool(value_of(cfg, key))


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value of a key such as ``MODEL.RETINANET.NUM_CLASSES``."""
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def _interface(cfg: CfgNode) -> type[DetectorInterface]:
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    return interface_class(architecture if inspect.isclass(architecture) else nn.Module)


def build_node(cfg: CfgNode, key: str, namespace: ModuleType, **given: Any) -> Any:
    """Build the component of the node MODEL.``key``; see :func:`build_component`."""
    return build_component(cfg.MODEL[key], namespace, f"MODEL.{key}", **given)
