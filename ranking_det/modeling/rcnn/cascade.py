"""Cascade R-CNN: stages of box heads that refine boxes, each with its own criterion."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY
from torch import nn

from ranking_det import assigners
from ranking_det.checks import check_that
from ranking_det.components import build_component
from ranking_det.modeling.rcnn.box_predictor import RankingBoxPredictor
from ranking_det.modeling.rcnn.mask_head import CascadeMaskHeads
from ranking_det.modeling.rcnn.roi_heads import (
    Stage,
    StagedROIHeads,
    build_box_parts,
    build_mask_part,
)
from ranking_det.user_errors import UserError


@ROI_HEADS_REGISTRY.register()
class RankingCascadeROIHeads(StagedROIHeads):
    """RoI heads of Cascade R-CNN (Cai and Vasconcelos, CVPR 2018) for boxes and masks.

    The heads follow the models of Rank & Sort Loss (Oksuz et al., ICCV 2021): the gradients of the
    stages are not scaled down, and at inference the logits of all stages are averaged. Each stage
    has a mask head, which is trained on the stage's positives with their weights and balanced
    against the stage's task loss. The masks of detections are the mean of the probabilities of all
    mask heads. The names of losses end in ``_stage0``, ``_stage1`` and so on.

    Detectron2's Cascade Mask R-CNN has one mask head, on the positives of the first stage. With a
    single mask head this class has the same parameter names (``mask_head``), so Detectron2's
    checkpoints load.

    Args:
        box_heads: the box head of each stage, pooled features -> features.
        box_predictors: the box predictor of each stage; class-agnostic.
        assigners: the assigner of each stage, usually with rising IoU thresholds.
        criteria: the criterion of each stage, with a mask loss if the stage has a mask head.
        mask_heads: one mask head per stage, or one for the first stage only; None without masks.
        loss_weights: the weight >= 0 of each stage's losses; None for 1. Cascade R-CNN with cross
            entropy has 1, .5 and .25.
        shared: the arguments of :class:`StagedROIHeads`. In stages without a mask head, the
            continuous labels "dice" and "mean" are the IoU.

    Raises:
        ValueError: the parts do not fit together.
    """

    @configurable
    def __init__(
        self,
        *,
        box_heads: Sequence[nn.Module],
        box_predictors: Sequence[RankingBoxPredictor],
        assigners: Sequence[nn.Module],
        criteria: Sequence[nn.Module],
        mask_heads: Sequence[nn.Module] | None = None,
        loss_weights: Sequence[float] | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        parts = [nn.ModuleList(p) for p in (box_heads, box_predictors, assigners, criteria)]
        counts = [len(modules) for modules in parts]
        names = "box_heads, box_predictors, assigners and criteria"
        equal = len(set(counts)) == 1 and counts[0] > 0
        check_that(equal, names, "one of each for every stage", counts)
        weights = [1.0] * counts[0] if loss_weights is None else list(loss_weights)
        expected = f"a number >= 0 for each of {counts[0]} stages"
        valid = len(weights) == counts[0] and all(weight >= 0 for weight in weights)
        check_that(valid, "loss_weights", expected, loss_weights)
        self.loss_weights = weights
        if any(predictor.bbox_pred.out_features != 4 for predictor in box_predictors):
            raise ValueError(
                "box_predictors: expected cls_agnostic_bbox_reg=True in a cascade, got False"
            )
        masks = list(mask_heads or ())
        expected = f"one for each of {counts[0]} stages, or one for the first stage"
        fits = not self.mask_on or len(masks) in (1, counts[0])
        check_that(fits, "mask_heads", expected, len(masks))
        # A single mask head is not wrapped, so it has Detectron2's names in the state dict.
        mask_head = masks[0] if len(masks) == 1 else CascadeMaskHeads(masks)
        self._set_parts(*parts, mask_head=mask_head)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Translate a yaml config to the constructor's arguments.

        MODEL.ROI_BOX_CASCADE_HEAD has the IoU thresholds and the weights of the box coders. Each
        stage has a mask head, unless MODEL.ROI_MASK_HEAD.EVERY_STAGE is False.

        Args:
            cfg: a Detectron2 config with the project's keys.
            input_shape: the shapes of the backbone's features, by name.

        Returns:
            The arguments by name.

        Raises:
            UserError: a component cannot be built, or the numbers of thresholds and box coders
                differ.
        """
        node, node_name = cfg.MODEL.ROI_BOX_CASCADE_HEAD, "MODEL.ROI_BOX_CASCADE_HEAD"
        if len(node.IOUS) != len(node.BBOX_REG_WEIGHTS) or not node.IOUS:
            raise UserError(
                f"{node_name}: expected an entry for every stage in IOUS and BBOX_REG_WEIGHTS, got "
                f"{len(node.IOUS)} and {len(node.BBOX_REG_WEIGHTS)}"
            )
        arguments = super().from_config(cfg, input_shape)
        # In the order in which build_box_parts returns the parts.
        names = ("box_heads", "box_predictors", "criteria", "assigners")
        arguments |= {name: [] for name in names}
        for iou, weights in zip(node.IOUS, node.BBOX_REG_WEIGHTS, strict=True):
            assigner_node = {"NAME": "MaxIoU", "POSITIVE_IOU": iou, "NEGATIVE_IOU": iou}
            built = build_box_parts(cfg, input_shape, weights)
            built["assigner"] = build_component(
                assigner_node, assigners, f"{node_name}.IOUS", low_quality=None
            )
            for name, part in zip(names, built.values(), strict=True):
                arguments[name].append(part)
        if cfg.MODEL.MASK_ON:
            masked_criteria = arguments["criteria"][
                : None if cfg.MODEL.ROI_MASK_HEAD.EVERY_STAGE else 1
            ]
            parts = [build_mask_part(cfg, input_shape, criterion) for criterion in masked_criteria]
            arguments["mask_heads"] = [part.pop("mask_head") for part in parts]
            arguments |= parts[0]
        return arguments

    def stages(self) -> list[Stage]:
        """Return all stages, in order; the first refines the RPN's proposals."""
        mask_heads = []
        if self.mask_on:
            several = isinstance(self.mask_head, CascadeMaskHeads)
            mask_heads = self.mask_head if several else [self.mask_head]
        parts = (self.box_head, self.box_predictor, self.assigner, self.criterion, mask_heads)
        return [Stage(*stage) for stage in zip_longest(*parts, self.loss_weights)]
