"""Whether the parts of a detector fit each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from detectron2.modeling.proposal_generator import StandardRPNHead

from ranking_det.checks import check_at_least
from ranking_det.criteria import CriterionBase
from ranking_det.modeling.anchor_matching import AnchorMatching
from ranking_det.modeling.dense.head import DenseHead
from ranking_det.modeling.rcnn.box_predictor import RankingBoxPredictor

if TYPE_CHECKING:
    from ranking_det.modeling.dense.detector import RankingDenseDetector
    from ranking_det.modeling.rcnn.roi_heads import RankingROIHeads
    from ranking_det.modeling.rcnn.rpn import RankingRPN


def check_parts(model: RankingDenseDetector) -> None:
    """Refuse what would fail, or train something else than it tests, in the first step.

    Raises:
        ValueError: parts that do not fit together.
    """
    _check_grid(model)
    check_coder(model.criterion, model.box2box_transform)
    if model.num_classes > 1 and model.criterion.softmax:
        raise ValueError(
            "criterion.classification: the scores of a dense detector are a sigmoid of each class, "
            "and cross entropy is for a softmax; take Focal"
        )
    if isinstance(model.head, DenseHead):
        _check_head(model, model.head)


def check_rpn(rpn: RankingRPN) -> None:
    """The same for the parts of an RPN."""
    check_at_least("loss_weight", rpn.loss_weight, 0.0)
    check_at_least("nms_thresh", rpn.nms_thresh, 0.0)
    if rpn.boundary is not None:
        check_at_least("boundary", rpn.boundary, 0.0)
    if len(rpn.in_features) != len(rpn.strides):
        raise ValueError(
            f"in_features: {len(rpn.in_features)} levels, but the anchor generator has "
            f"{len(rpn.strides)}"
        )
    if isinstance(rpn.rpn_head, StandardRPNHead):
        own, counts = rpn.rpn_head.objectness_logits.out_channels, rpn.anchor_generator.num_anchors
        if {own} != set(counts):
            raise ValueError(
                f"head.num_anchors: {own}, but the anchor generator gives {sorted(set(counts))} "
                "per cell"
            )
    _check_grid(rpn)
    check_coder(rpn.criterion, rpn.box2box_transform)
    _check_no_branch(rpn.criterion)


def check_roi_heads(heads: RankingROIHeads) -> None:
    """The same for the parts of the heads on proposals."""
    stages = heads.stages()
    for stage in stages:
        if not isinstance(stage.predictor, RankingBoxPredictor):
            kind = type(stage.predictor).__name__
            raise ValueError(f"box_predictor: expected a RankingBoxPredictor, got {kind}")
        softmax = stage.criterion.softmax
        if softmax != stage.predictor.softmax:
            raise ValueError(
                f"box_predictor.softmax: expected {softmax}, as the criterion's scores are "
                + ("a softmax over the classes" if softmax else "a sigmoid of each class")
            )
        _check_no_branch(stage.criterion)
        check_coder(stage.criterion, stage.predictor.box2box_transform)
        if getattr(stage.assigner, "needs_grid", False):
            raise ValueError(
                f"assigner: {type(stage.assigner).__name__} is for anchors on a grid; take MaxIoU "
                "for proposals"
            )
        if stage.predictor.num_classes != heads.num_classes:
            raise ValueError(
                f"box_predictor.num_classes: {stage.predictor.num_classes}, but the heads have "
                f"{heads.num_classes}"
            )
    if len({stage.predictor.softmax for stage in stages}) > 1:
        raise ValueError(
            "criteria: expected either softmax or sigmoid in all stages, whose logits are averaged"
        )
    if heads.mask_on:
        _check_masks(heads)
    if heads.continuous_label != "iou":
        _check_continuous_label(heads)


def _check_continuous_label(heads: RankingROIHeads) -> None:
    if not all(stage.criterion.uses_continuous_labels for stage in heads.stages()):
        raise ValueError(
            "continuous_label: the criterion has no continuous labels, got "
            f"{heads.continuous_label!r}"
        )
    if not heads.mask_on and heads.continuous_label in ("dice", "mean"):
        raise ValueError(
            f"continuous_label: {heads.continuous_label!r} needs a mask head, but there is none"
        )


def check_coder(criterion: CriterionBase, box2box_transform: Any) -> None:
    """Raise ValueError if a loss on encoded boxes encodes them otherwise than the box coder."""
    coder = tuple(getattr(box2box_transform, "weights", ()))
    for weights in criterion.coder_weights:
        if weights != coder:
            raise ValueError(
                "criterion.localization: SmoothL1 encodes boxes relative to anchors with the "
                f"weights {weights}, the box coder "
                + (f"with {coder}" if coder else "does not; take a loss on decoded boxes")
            )


def _check_masks(heads: RankingROIHeads) -> None:
    masked = [stage.mask_head for stage in heads.stages() if stage.mask_head is not None]
    for head in masked or [None]:
        if not hasattr(head, "layers"):
            raise ValueError(
                "mask_head: expected one with layers(features) -> logits, as Detectron2's "
                f"BaseMaskRCNNHead, got {type(head).__name__}"
            )
        masks = getattr(getattr(head, "predictor", None), "out_channels", 1)
        if masks not in (1, heads.num_classes):
            raise ValueError(
                f"mask_head.num_classes: {masks}, but the heads have {heads.num_classes}"
            )
    if heads.mask_pooler is None:
        raise ValueError("mask_pooler: expected a pooler, got None")


def _check_no_branch(criterion: CriterionBase) -> None:
    if criterion.branch is not None:
        raise ValueError("criterion.branch: the heads of an R-CNN have no branch to train")


def _check_grid(model: AnchorMatching) -> None:
    name, counts = type(model.assigner).__name__, set(model.anchor_generator.num_anchors)
    levels = getattr(model.assigner, "num_levels", None)
    if levels not in (None, len(model.strides)):
        raise ValueError(
            f"assigner: {name} is for {levels} levels, but there are {len(model.strides)}"
        )
    if not getattr(model.assigner, "one_per_location", False):
        return
    if counts != {1}:
        raise ValueError(
            f"assigner: {name} needs one anchor per cell, but the anchor generator gives "
            f"{sorted(counts)}"
        )
    for cell, stride in zip(model.anchor_generator.cell_anchors, model.strides, strict=True):
        sides = cell[0, 2:] - cell[0, :2]
        if not torch.allclose(sides.cpu(), torch.tensor(8.0 * stride)):
            raise ValueError(
                f"assigner: {name} needs squares of 8 strides, but the anchor of stride "
                f"{stride} is {sides.tolist()} px"
            )


def _check_head(model: RankingDenseDetector, head: DenseHead) -> None:
    counts = set(model.anchor_generator.num_anchors)
    if head.scales is not None and len(head.scales) != len(model.strides):
        raise ValueError(
            f"head.num_scales: {len(head.scales)}, but there are {len(model.strides)} levels"
        )
    if counts != {head.num_anchors}:
        raise ValueError(
            f"head.num_anchors: {head.num_anchors}, but the anchor generator gives "
            f"{sorted(counts)} per cell"
        )
    if head.num_classes != model.num_classes:
        raise ValueError(
            f"head.num_classes: {head.num_classes}, but the model has {model.num_classes}"
        )
    trained = model.criterion.branch is not None
    if trained != (head.branch is not None):
        raise ValueError(
            "head.branch: the head has no branch, but the criterion trains one"
            if trained
            else "head.branch: the head has a branch, but the criterion has no loss for it"
        )
