"""Check that the parts of a detector are compatible: head, box coder, assigner, criterion.

Each function raises a ValueError for parts that would fail in the first training step, or that
would train a model that differs from the one used at inference.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead, MaskRCNNConvUpsampleHead
from torch import nn

from ranking_det.assigners import Assigner
from ranking_det.criteria import CriterionBase, MaskLocalization
from ranking_det.modeling.feature_maps import MapHead

NO_BRANCH = "criterion.branch: expected None because R-CNN heads have no branch, got a loss"
NO_MASK_LOSS = (
    "criterion.localization: expected a mask loss, such as MaskDice, for the mask head, got none"
)


def check_dense_parts(
    assigner: nn.Module,
    criterion: CriterionBase,
    head: nn.Module,
    anchor_generator: Any,
    coder: Any,
    strides: Sequence[int],
    num_classes: int,
    softmax: bool = False,
) -> None:
    """Check that the parts of a dense detector are compatible.

    Args:
        assigner: the assigner of the anchors.
        criterion: the criterion of the detector.
        head: the head of the detector; only a :class:`MapHead` is checked.
        anchor_generator: Detectron2 anchor generator.
        coder: Detectron2 box coder.
        strides: the stride of each level, in pixels per cell.
        num_classes: K.
        softmax: whether inference computes a softmax over the classes, and not sigmoids.

    Raises:
        ValueError: two parts do not fit.
    """
    _check_strides(anchor_generator, strides)
    _check_grid(assigner, anchor_generator, strides)
    _check_coder(criterion, coder)
    if num_classes > 1:  # with one class, both scores are the same
        _check_softmax("inference", criterion, softmax)
    if not isinstance(head, MapHead):
        return
    levels, scales = len(strides), None if head.scales is None else len(head.scales)
    if scales not in (None, levels):
        raise ValueError(f"head.num_scales: expected {levels}, one per level, or 0, got {scales}")
    _check_num_anchors(head.num_anchors, anchor_generator)
    check_num_classes("head", head.num_classes, num_classes)
    if head.branch is None and criterion.branch is not None:
        raise ValueError(
            "head.branch: expected True because the criterion trains a branch, got False"
        )
    if head.branch is not None and criterion.branch is None:
        raise ValueError(
            "head.branch: expected False because the criterion has no loss for a branch, got True"
        )


def check_grid_parts(
    assigner: nn.Module, criterion: CriterionBase, grids: Sequence[int], strides: Sequence[int]
) -> None:
    """Check that the parts of a detector of masks on grids are compatible.

    Args:
        assigner: the assigner of the cells.
        criterion: the criterion of the detector.
        grids: the cells of each level along a side.
        strides: the stride of each feature, in pixels.

    Raises:
        ValueError: two parts do not fit.
    """
    if len(strides) != len(grids) or strides[0] != 4:
        raise ValueError(
            f"in_features: expected {len(grids)} features, one for each grid, with strides from 4, "
            f"got strides {list(strides)}"
        )
    _check_call(assigner)
    name = type(assigner).__name__
    if isinstance(assigner, Assigner):
        if assigner.needs_predictions or assigner.one_per_location:
            raise ValueError(f"assigner: expected one for cells, such as CenterRegion, got {name}")
        if assigner.num_levels not in (None, len(grids)):
            raise ValueError(
                f"assigner: expected one for {len(grids)} levels, got {name} for "
                f"{assigner.num_levels}"
            )
    if criterion.branch is not None:
        raise ValueError("criterion.branch: expected None because the head has no branch, got one")
    if criterion.softmax:
        raise ValueError(
            "criterion.classification: expected a loss on the sigmoid of each class, such as "
            "Focal, got cross entropy, which is for a softmax"
        )
    for task in criterion.tasks:
        if not isinstance(task, MaskLocalization):
            raise ValueError(
                "criterion.localization: expected losses on masks only, such as MaskDice, because "
                f"the detector has no boxes, got {type(task).__name__}"
            )


def check_rpn_parts(
    assigner: nn.Module,
    criterion: CriterionBase,
    head: nn.Module,
    anchor_generator: Any,
    coder: Any,
    in_features: Sequence[str],
) -> None:
    """Check that the parts of a region proposal network (RPN) are compatible.

    Args:
        assigner: the assigner of the anchors.
        criterion: the criterion of the RPN.
        head: the head of the RPN.
        anchor_generator: Detectron2 anchor generator.
        coder: Detectron2 box coder.
        in_features: names of the features, one per level.

    Raises:
        ValueError: two parts do not fit.
    """
    strides = anchor_generator.strides
    if len(in_features) != len(strides):
        raise ValueError(
            f"in_features: expected {len(strides)} levels, as many as the anchor generator has, "
            f"got {len(in_features)}"
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
    """Check that the parts of a stage of RoI heads are compatible.

    Args:
        predictor: predicts class scores and boxes; has ``softmax``, ``num_classes`` and
            ``box2box_transform``.
        assigner: the assigner of the proposals.
        criterion: the criterion of the stage.
        mask_head: the mask head of the stage; None without one.
        num_classes: K.
        continuous_label: the values by which the positives are ranked; "iou" fits every criterion.

    Raises:
        ValueError: two parts do not fit.
    """
    _check_softmax("box_predictor", criterion, predictor.softmax)
    if criterion.branch is not None:
        raise ValueError(NO_BRANCH)
    _check_coder(criterion, predictor.box2box_transform)
    _check_call(assigner)
    if isinstance(assigner, Assigner) and assigner.needs_grid:
        name = type(assigner).__name__
        raise ValueError(
            f"assigner: expected one for proposals, such as MaxIoU, got {name}, which is for "
            "anchors on a grid"
        )
    check_num_classes("box_predictor", predictor.num_classes, num_classes)
    for part in criterion.criteria if continuous_label != "iou" else ():
        if not part.classification.uses_continuous_labels:
            name = type(part.classification).__name__
            raise ValueError(
                f"continuous_label: expected 'iou' because {name} has no continuous labels, got "
                f"{continuous_label!r}"
            )
    _check_masks(criterion, mask_head, num_classes)


def _check_masks(criterion: CriterionBase, mask_head: nn.Module | None, num_classes: int) -> None:
    learns_masks = any(isinstance(task, MaskLocalization) for task in criterion.tasks)
    if mask_head is None and learns_masks:
        raise ValueError(
            "criterion.localization: expected no mask loss because there is no mask head, got one"
        )
    if mask_head is None:
        return
    if not isinstance(mask_head, BaseMaskRCNNHead):
        raise ValueError(
            "mask_head: expected a BaseMaskRCNNHead of Detectron2, with layers(features) -> "
            f"logits, got {type(mask_head).__name__}"
        )
    # A head with a single output predicts one mask for all classes.
    if isinstance(mask_head, MaskRCNNConvUpsampleHead) and mask_head.predictor.out_channels > 1:
        check_num_classes("mask_head", mask_head.predictor.out_channels, num_classes)
    if not learns_masks:
        raise ValueError(NO_MASK_LOSS)


def check_mask_parts(criterion: CriterionBase, head_count: int, branch_count: int) -> None:
    """Check that the parts of a dense detector that predict masks are compatible.

    Args:
        criterion: the criterion of the detector.
        head_count: the number of mask coefficients that the head predicts for an anchor.
        branch_count: the number of prototypes that the mask branch predicts.

    Raises:
        ValueError: two parts do not fit.
    """
    if head_count != branch_count:
        raise ValueError(
            f"head.num_coefficients: expected {branch_count}, the prototypes of the mask branch, "
            f"got {head_count}"
        )
    if not any(isinstance(task, MaskLocalization) for task in criterion.tasks):
        raise ValueError(NO_MASK_LOSS)


def _check_softmax(part: str, criterion: CriterionBase, softmax: bool) -> None:
    """Check that the scores at inference are those that the criterion trains."""
    if criterion.softmax != softmax:
        kind = "a softmax over the classes" if criterion.softmax else "a sigmoid of each class"
        raise ValueError(
            f"{part}.softmax: expected {criterion.softmax} because the criterion is for {kind}, "
            f"got {softmax}"
        )


def _check_coder(criterion: CriterionBase, coder: Any) -> None:
    """Check that a loss on encoded boxes encodes them as the box coder does."""
    expected = tuple(coder.weights) if isinstance(coder, Box2BoxTransform) else None
    if expected is not None and not all(0 < weight < math.inf for weight in expected):
        raise ValueError(f"box2box_transform.weights: expected numbers above 0, got {expected}")
    remedy = f"the box coder's weights {expected}" if expected else "a loss on decoded boxes"
    for weights in criterion.coder_weights:
        if weights != expected:
            raise ValueError(
                f"criterion.localization: expected {remedy}, got SmoothL1, which encodes boxes "
                f"with the weights {weights}"
            )


def _check_call(assigner: nn.Module) -> None:
    """Check that an assigner, which need not derive from the base class, can be called as one."""
    names = list(inspect.signature(Assigner.forward).parameters)[1:]
    try:
        inspect.signature(assigner.forward).bind(*names)
    except TypeError as error:
        raise ValueError(
            f"assigner: expected a module that is called with {', '.join(names)}, such as ATSS, "
            f"got {type(assigner).__name__} ({error})"
        ) from error


def _check_strides(anchor_generator: Any, strides: Sequence[int]) -> None:
    """Check that the anchors lie on the cells of the features.

    A map of an image whose side is not a multiple of the stride has one more cell. Anchors that are
    spread evenly over the image have smaller strides then, such as 550 / 69 instead of 8.
    """
    if not isinstance(anchor_generator, DefaultAnchorGenerator):
        return
    generator_strides = list(anchor_generator.strides)
    pairs = zip(generator_strides, strides, strict=False)
    are_near = all(stride / 2 < spread <= stride for spread, stride in pairs)
    if len(generator_strides) != len(strides) or not are_near:
        raise ValueError(
            f"anchor_generator.strides: expected {list(strides)}, those of the features, got "
            f"{generator_strides}"
        )


def _check_grid(assigner: nn.Module, anchor_generator: Any, strides: Sequence[int]) -> None:
    """Check that an assigner supports the anchors of these strides."""
    _check_call(assigner)
    if not isinstance(assigner, Assigner):
        return
    name, levels = type(assigner).__name__, len(strides)
    if assigner.num_levels not in (None, levels):
        raise ValueError(
            f"assigner: expected one for {levels} levels, got {name} for {assigner.num_levels}"
        )
    if not assigner.one_per_location:
        return
    counts = sorted(set(anchor_generator.num_anchors))
    if counts != [1]:
        raise ValueError(f"anchor_generator: expected one anchor per cell for {name}, got {counts}")
    for cell, stride in zip(anchor_generator.cell_anchors, strides, strict=True):
        sides = cell[0, 2:] - cell[0, :2]
        if not torch.allclose(sides.cpu(), torch.tensor(8.0 * stride)):
            raise ValueError(
                f"anchor_generator: expected squares of 8 strides for {name}, got "
                f"{sides.tolist()} px at stride {stride}"
            )


def _check_num_anchors(count: int, anchor_generator: Any) -> None:
    counts = sorted(set(anchor_generator.num_anchors))
    if counts != [count]:
        raise ValueError(
            f"head.num_anchors: expected {counts}, as in the anchor generator, got {count}"
        )


def check_num_classes(part: str, count: int, num_classes: int) -> None:
    """Check that a part of a model is for as many classes as the model.

    Args:
        part: the name of the part.
        count: its number of classes.
        num_classes: K.

    Raises:
        ValueError: the numbers differ.
    """
    if count != num_classes:
        raise ValueError(f"{part}.num_classes: expected the model's {num_classes}, got {count}")
