"""Keys that this project adds to Detectron2's yaml configs."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from ranking_det.components import build_component
from ranking_det.modeling.interface import DetectorInterface, interface_class
from ranking_det.user_errors import UserError

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
    "MASK_BRANCH": "PrototypeMasks",
}
"""Nodes under MODEL and their default NAME."""

NUM_CLASSES_KEYS = ("MODEL.RETINANET.NUM_CLASSES", "MODEL.ROI_HEADS.NUM_CLASSES")
"""Keys of Detectron2's yaml configs for the number of object classes."""


def add_ranking_config(cfg: CfgNode) -> None:
    """Add the project's nodes to a Detectron2 config; Detectron2's defaults do not change.

    A component is a node ``{NAME: class, ARGUMENT: value}``. The classes come from
    :mod:`ranking_det.assigners`, :mod:`ranking_det.criteria` and this package. An argument that is
    itself a component, or a list of components, is again a node or a list of nodes. The constructor
    of a component defines its arguments and their defaults; nodes are checked against it when they
    are built. There is no default criterion.

    All models:
        SOLVER.EPOCHS: length of the run in epochs; 0 for the length in SOLVER.MAX_ITER.
        SOLVER.REFERENCE_BATCH: the batch size that the config's learning rate and iterations
        assume; 0 to keep them with any batch size.
        SOLVER.CLIP_GRAD_NORM: the largest L2 norm of the gradient of all parameters together; a
        longer gradient is scaled down. 0 for no limit. Detectron2's SOLVER.CLIP_GRADIENTS limits
        the gradient of each parameter.
        MODEL.BACKBONE.NAME may be build_resnet_carafe_fpn_backbone. It reads the keys of
        build_resnet_fpn_backbone, except MODEL.FPN.FUSE_TYPE.

    RetinaNet and FCOS:
        MODEL.ASSIGNER, MODEL.CRITERION, MODEL.HEAD and MODEL.INFERENCE. Options of the head and of
        inference that have a key in Detectron2 are taken from MODEL.RETINANET and TEST.

    YOLACT:
        The nodes of RetinaNet, with YOLACTHead as MODEL.HEAD.NAME, and MODEL.MASK_BRANCH.
        MODEL.BACKBONE.NAME may be build_resnet_bilinear_fpn_backbone, which reads the keys of
        build_retinanet_resnet_fpn_backbone. MODEL.CONTINUOUS_LABEL is an argument of
        :class:`RankingYOLACT`.

    SOLOv2:
        The nodes of RetinaNet, with HEAD.NAME SOLOv2Head, INFERENCE.NAME SOLOv2Inference and
        ASSIGNER.NAME CenterRegion. MODEL.MAX_MASKS_PER_IMAGE is the largest number of masks that an
        image trains; 0 for all.

    R-CNNs, with RankingRPN as MODEL.PROPOSAL_GENERATOR.NAME, and RankingROIHeads or
    RankingCascadeROIHeads as MODEL.ROI_HEADS.NAME:
        MODEL.ASSIGNER, MODEL.CRITERION, MODEL.SAMPLER and MODEL.BOX_PREDICTOR belong to the box
        head; MODEL.RPN_ASSIGNER, MODEL.RPN_CRITERION and MODEL.RPN_SAMPLER belong to the RPN. A
        sampler with an empty NAME means no sampler. Detectron2's keys for matching, sampling and
        losses have no effect, except MODEL.RPN.LOSS_WEIGHT.
        With masks, MODEL.MASK_CRITERION is the mask loss that is added to MODEL.CRITERION.
        MODEL.ROI_MASK_HEAD.MAX_ROIS and MODEL.ROI_HEADS.CONTINUOUS_LABEL are arguments of
        :class:`StagedROIHeads`. A cascade has a mask head in every stage. If
        MODEL.ROI_MASK_HEAD.EVERY_STAGE is False, only the first stage has one, as in Detectron2's
        Cascade Mask R-CNN.

    Args:
        cfg: a Detectron2 config, which is changed in place.
    """
    for node, name in COMPONENTS.items():
        cfg.MODEL[node] = CfgNode({"NAME": name}, new_allowed=True)
    cfg.MODEL.ROI_MASK_HEAD.MAX_ROIS = 200
    cfg.MODEL.ROI_MASK_HEAD.EVERY_STAGE = True
    cfg.MODEL.ROI_HEADS.CONTINUOUS_LABEL = "iou"
    cfg.MODEL.CONTINUOUS_LABEL = "iou"
    cfg.MODEL.MAX_MASKS_PER_IMAGE = 0
    cfg.SOLVER.EPOCHS = 0.0
    cfg.SOLVER.CLIP_GRAD_NORM = 0.0
    cfg.SOLVER.REFERENCE_BATCH = 0


def num_classes_keys(cfg: CfgNode) -> tuple[str, ...]:
    """Return the yaml keys that may hold the number of classes of the config's model.

    Args:
        cfg: a Detectron2 config.

    Returns:
        The key of the model's :class:`DetectorInterface`. For a model whose interface has no key,
        all of NUM_CLASSES_KEYS, because any of them may be the right one.
    """
    key = _interface(cfg).num_classes_key
    return NUM_CLASSES_KEYS if key is None else (key,)


def learns_masks(cfg: CfgNode) -> bool:
    """Return whether the config's model needs the objects' masks in training.

    Args:
        cfg: a Detectron2 config.

    Returns:
        True if the model needs masks.
    """
    interface = _interface(cfg)
    key = interface.masks_key
    return interface.learns_masks if key is None else bool(value_of(cfg, key))


def check_masks(cfg: CfgNode) -> None:
    """Check that MODEL.MASK_ON is not set for a model of this project without masks.

    Args:
        cfg: a Detectron2 config.

    Raises:
        UserError: the key asks for masks, which the model cannot learn.
    """
    interface = _interface(cfg)
    # Only a model with an interface of its own says for certain that it learns no masks.
    if cfg.MODEL.MASK_ON and issubclass(interface, nn.Module) and not learns_masks(cfg):
        name = interface.__name__
        raise UserError(f"MODEL.MASK_ON: expected False for {name}, which has no masks, got True")


def value_of(cfg: CfgNode, key: str) -> Any:
    """Look up the value of a key.

    Args:
        cfg: a Detectron2 config.
        key: the key with dots, such as ``MODEL.RETINANET.NUM_CLASSES``.

    Returns:
        The value.
    """
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def _interface(cfg: CfgNode) -> type[DetectorInterface]:
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    return interface_class(architecture if inspect.isclass(architecture) else nn.Module)


def build_node(cfg: CfgNode, key: str, namespace: ModuleType, **defaults: Any) -> Any:
    """Build the component of the node MODEL.``key``; see :func:`build_component`.

    Args:
        cfg: a Detectron2 config.
        key: the node's name, such as ``ASSIGNER``.
        namespace: the package or module with the constructors.
        defaults: default arguments; the arguments of the node override them.

    Returns:
        The constructed object.

    Raises:
        UserError: a name is unknown, an argument is unknown or missing, or a type or value is
            wrong.
    """
    return build_component(cfg.MODEL[key], namespace, f"MODEL.{key}", **defaults)
