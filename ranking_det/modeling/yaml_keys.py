"""The keys that the project's models add to Detectron2's yaml configs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from torch import nn

from ranking_det import assigners, criteria
from ranking_det.config import build_component
from ranking_det.modeling.dense import head as dense_head
from ranking_det.modeling.dense import inference
from ranking_det.modeling.interface import DetectorInterface, interface_class
from ranking_det.modeling.rcnn import sampling

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


def build_sampler(cfg: CfgNode, key: str) -> nn.Module | None:
    """The sampler of the node MODEL.``key``, None if it has no NAME."""
    node = cfg.MODEL[key]
    if not node.NAME:
        return None
    built: nn.Module = build_component(node, sampling, f"MODEL.{key}")
    return built


def dense_arguments(
    cfg: CfgNode, generator: Callable[[Backbone], nn.Module] | None = None
) -> dict[str, Any]:
    """Translate what a yaml config says of all dense detectors into constructor arguments.

    Args:
        cfg: a config that :func:`add_ranking_config` was called on.
        generator: makes the anchor generator for the backbone; None for one point per cell.
    """
    node = cfg.MODEL.RETINANET
    backbone = build_backbone(cfg)
    grid = {} if generator is None else {"anchor_generator": generator(backbone)}
    head = build_component(
        cfg.MODEL.HEAD,
        dense_head,
        "MODEL.HEAD",
        in_channels=backbone.output_shape()[node.IN_FEATURES[0]].channels,
        num_classes=node.NUM_CLASSES,
        num_anchors=grid["anchor_generator"].num_anchors[0] if grid else 1,
        num_convs=node.NUM_CONVS,
        norm=node.NORM,
        prior_prob=node.PRIOR_PROB,
    )
    selection = build_component(
        cfg.MODEL.INFERENCE,
        inference,
        "MODEL.INFERENCE",
        score_thresh=node.SCORE_THRESH_TEST,
        topk=node.TOPK_CANDIDATES_TEST,
        nms_thresh=node.NMS_THRESH_TEST,
        max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
    )
    return {
        "backbone": backbone,
        "head": head,
        "head_in_features": node.IN_FEATURES,
        "assigner": build_component(cfg.MODEL.ASSIGNER, assigners, "MODEL.ASSIGNER"),
        "criterion": build_component(cfg.MODEL.CRITERION, criteria, "MODEL.CRITERION"),
        "inference": selection,
        "num_classes": node.NUM_CLASSES,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "input_format": cfg.INPUT.FORMAT,
        **grid,
    }
