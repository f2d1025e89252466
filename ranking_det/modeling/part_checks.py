"""Whether the parts of a detector fit each other.

Each function refuses, by a ValueError, what would fail, or train something else than it tests, in
the first step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead, MaskRCNNConvUpsampleHead
from torch import nn

from ranking_det.assigners import Assigner
from ranking_det.criteria import CriterionBase, MaskLocalization
from ranking_det.modeling.feature_maps import MapHead

NO_BRANCH = "criterion.branch: the heads of an R-CNN have no branch to train"


def check_dense_parts(
    assigner: nn.Module,
    criterion: CriterionBase,
    head: nn.Module,
    anchor_generator: Any,
    coder: Any,
    strides: Sequence[int],
    num_classes: int,
) -> None:
    """Check the parts of a dense detector of K = ``num_classes`` classes."""
    _check_grid(assigner, anchor_generator, strides)
    _check_coder(criterion, coder)
    if num_classes > 1 and criterion.softmax:
        raise ValueError(
            "criterion.classification: the scores of a dense detector are a sigmoid of each class, "
            "and cross entropy is for a softmax; take Focal"
        )
    if not isinstance(head, MapHead):
        return
    levels, scales = len(strides), None if head.scales is None else len(head.scales)
    if scales not in (None, levels):
        raise ValueError(f"head.num_scales: {scales}, but there are {levels} levels")
    _check_num_anchors(head.num_anchors, anchor_generator)
    if head.num_classes != num_classes:
        raise ValueError(f"head.num_classes: {head.num_classes}, but the model has {num_classes}")
    if head.branch is None and criterion.branch is not None:
        raise ValueError("head.branch: the head has no branch, but the criterion trains one")
    if head.branch is not None and criterion.branch is None:
        raise ValueError("head.branch: the head has a branch, but the criterion has no loss for it")


def check_rpn_parts(
    assigner: nn.Module,
    criterion: CriterionBase,
    head: nn.Module,
    anchor_generator: Any,
    coder: Any,
    in_features: Sequence[str],
) -> None:
    """Check the parts of a region proposal network."""
    strides = anchor_generator.strides
    if len(in_features) != len(strides):
        raise ValueError(
            f"in_features: {len(in_features)} levels, but the anchor generator has {len(strides)}"
        )
    if isinstance(head, StandardRPNHead):
        _check_num_anchors(head.objectness_logits.out_channels, anchor_generator)
    _check_grid(assigner, anchor_generator, strides)
    _check_coder(criterion, coder)
    if criterion.branch is not None:
        raise ValueError(NO_BRANCH)


def check_stage_parts(
    predictor: Any,
    assigner: nn.Module,
    criterion: CriterionBase,
    mask_head: nn.Module | None,
    num_classes: int,
    continuous_label: str,
) -> None:
    """Check the parts of a stage of heads on proposals, of K = ``num_classes`` classes.

    Args:
        predictor: of class scores and boxes, with ``softmax``, ``num_classes`` and
            ``box2box_transform``.
        assigner: of proposals.
        criterion: of the stage.
        mask_head: on the positives; None for none.
        num_classes: K.
        continuous_label: what positives are ranked by; "iou" of the box suits every criterion.
    """
    if criterion.softmax != predictor.softmax:
        kind = "a softmax over the classes" if criterion.softmax else "a sigmoid of each class"
        raise ValueError(
            f"box_predictor.softmax: expected {criterion.softmax}, as the criterion is for {kind}"
        )
    if criterion.branch is not None:
        raise ValueError(NO_BRANCH)
    _check_coder(criterion, predictor.box2box_transform)
    if isinstance(assigner, Assigner) and assigner.needs_grid:
        name = type(assigner).__name__
        raise ValueError(f"assigner: {name} is for anchors on a grid; take MaxIoU for proposals")
    _check_num_classes("box_predictor", predictor.num_classes, num_classes)
    for part in criterion.criteria if continuous_label != "iou" else ():
        if not part.classification.uses_continuous_labels:
            name = type(part.classification).__name__
            raise ValueError(
                f"continuous_label: {name} has no continuous labels, got {continuous_label!r}"
            )
    _check_masks(criterion, mask_head, num_classes)


def _check_masks(criterion: CriterionBase, mask_head: nn.Module | None, num_classes: int) -> None:
    learns = any(isinstance(task, MaskLocalization) for task in criterion.tasks)
    if mask_head is None and learns:
        raise ValueError("criterion.localization: there is no mask head for the task on masks")
    if mask_head is None:
        return
    if not isinstance(mask_head, BaseMaskRCNNHead):
        raise ValueError(
            "mask_head: expected one with layers(features) -> logits, as Detectron2's "
            f"BaseMaskRCNNHead, got {type(mask_head).__name__}"
        )
    # One mask for all classes, or one for each.
    if isinstance(mask_head, MaskRCNNConvUpsampleHead) and mask_head.predictor.out_channels > 1:
        _check_num_classes("mask_head", mask_head.predictor.out_channels, num_classes)
    if not learns:
        raise ValueError(
            "criterion.localization: expected a task on masks, such as MaskDice, for the mask head"
        )


def _check_coder(criterion: CriterionBase, coder: Any) -> None:
    """Check that a loss on encoded boxes encodes them as the box coder does."""
    expected = tuple(coder.weights) if isinstance(coder, Box2BoxTransform) else None
    fix = f"with {expected}" if expected else "does not; take a loss on decoded boxes"
    for weights in criterion.coder_weights:
        if weights != expected:
            raise ValueError(
                "criterion.localization: SmoothL1 encodes boxes relative to anchors with the "
                f"weights {weights}, the box coder {fix}"
            )


def _check_grid(assigner: nn.Module, anchor_generator: Any, strides: Sequence[int]) -> None:
    """Check that an assigner is for the anchors of these strides."""
    if not isinstance(assigner, Assigner):
        return
    name, levels = f"assigner: {type(assigner).__name__}", len(strides)
    if assigner.num_levels not in (None, levels):
        raise ValueError(f"{name} is for {assigner.num_levels} levels, but there are {levels}")
    if not assigner.one_per_location:
        return
    counts = sorted(set(anchor_generator.num_anchors))
    if counts != [1]:
        raise ValueError(f"{name} needs one anchor per cell, but the generator gives {counts}")
    for cell, stride in zip(anchor_generator.cell_anchors, strides, strict=True):
        sides = cell[0, 2:] - cell[0, :2]
        if not torch.allclose(sides.cpu(), torch.tensor(8.0 * stride)):
            raise ValueError(
                f"{name} needs squares of 8 strides, but the anchor of stride {stride} is "
                f"{sides.tolist()} px"
            )


def _check_num_anchors(count: int, anchor_generator: Any) -> None:
    counts = sorted(set(anchor_generator.num_anchors))
    if counts != [count]:
        raise ValueError(f"head.num_anchors: {count}, but the anchor generator gives {counts}")


def _check_num_classes(part: str, count: int, num_classes: int) -> None:
    if count != num_classes:
        raise ValueError(f"{part}.num_classes: {count}, but the heads have {num_classes}")
