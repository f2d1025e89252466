"""Cascade R-CNN: box heads that refine one another's boxes, each with its own criterion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY
from detectron2.structures import Instances
from torch import Tensor, nn

from ranking_det import assigners
from ranking_det.config import build_component
from ranking_det.modeling.rcnn.mask_head import CascadeMaskHeads
from ranking_det.modeling.rcnn.proposals import refine_proposals
from ranking_det.modeling.rcnn.roi_heads import STAGE, BoxStage, RankingROIHeads, TrainedStage
from ranking_det.modeling.step_metrics import log_metrics
from ranking_det.user_errors import UserError


@ROI_HEADS_REGISTRY.register()
class RankingCascadeROIHeads(RankingROIHeads):
    """The heads of Cascade R-CNN (Cai and Vasconcelos, CVPR 2018), boxes and masks.

    As published with Rank & Sort Loss (Oksuz et al., ICCV 2021), the gradients of the stages are
    not scaled down, the logits of all stages are averaged at inference, and each stage has a mask
    head, which is trained on that stage's positives with its weights and task loss. The masks of
    the detections are the mean of all mask heads' probabilities. Losses end in ``_stage0`` and so
    on.

    Detectron2's Cascade Mask R-CNN has one mask head, on the first stage's positives; its
    checkpoints load into ``mask_heads`` of length 1, which is named ``mask_head`` in the state dict
    as there.

    Args:
        box_heads: of each stage, pooled features -> features.
        box_predictors: of each stage; class-agnostic.
        assigners: of each stage, usually of rising thresholds.
        criteria: of each stage.
        num_classes: see :class:`RankingROIHeads`, as for the other arguments.
        box_in_features: see there.
        box_pooler: see there.
        sampler: see there.
        proposal_append_gt: see there; in every stage.
        mask_in_features: see there.
        mask_pooler: see there; all mask heads share it.
        mask_heads: of each stage, or one for the first stage alone; None for none.
        max_mask_rois: see there.
        continuous_label: see there; stages without a mask head take the IoU for "dice" and "mean".

    Raises:
        ValueError: parts that do not fit together.
    """

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        box_in_features: Sequence[str],
        box_pooler: nn.Module,
        box_heads: Sequence[nn.Module],
        box_predictors: Sequence[nn.Module],
        assigners: Sequence[nn.Module],
        criteria: Sequence[nn.Module],
        sampler: nn.Module | None = None,
        proposal_append_gt: bool = True,
        mask_in_features: Sequence[str] | None = None,
        mask_pooler: nn.Module | None = None,
        mask_heads: Sequence[nn.Module] | None = None,
        max_mask_rois: int = 200,
        continuous_label: str = "iou",
    ) -> None:
        counts = [len(parts) for parts in (box_heads, box_predictors, assigners, criteria)]
        if len(set(counts)) > 1 or not counts[0]:
            raise ValueError(
                "box_heads, box_predictors, assigners and criteria: expected one of each for every "
                f"stage, got {counts}"
            )
        for predictor in box_predictors:
            if predictor.bbox_pred.out_features != 4:
                raise ValueError(
                    "box_predictors: a cascade refines one box per proposal and needs "
                    "cls_agnostic_bbox_reg=True"
                )
        masks = len(mask_heads or ())
        if mask_in_features is not None and masks not in (1, counts[0]):
            raise ValueError(
                "mask_heads: expected one of each stage, or one for the first stage, got "
                f"{masks} for {counts[0]} stages"
            )
        super().__init__(
            num_classes=num_classes,
            box_in_features=box_in_features,
            box_pooler=box_pooler,
            box_head=nn.ModuleList(box_heads),
            box_predictor=nn.ModuleList(box_predictors),
            assigner=nn.ModuleList(assigners),
            criterion=nn.ModuleList(criteria),
            sampler=sampler,
            proposal_append_gt=proposal_append_gt,
            mask_in_features=mask_in_features,
            mask_pooler=mask_pooler,
            mask_head=_join(mask_heads) if mask_heads else None,
            max_mask_rois=max_mask_rois,
            continuous_label=continuous_label,
        )

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Of yaml; MODEL.ROI_BOX_CASCADE_HEAD has the thresholds and coders."""
        node = cfg.MODEL.ROI_BOX_CASCADE_HEAD
        if len(node.IOUS) != len(node.BBOX_REG_WEIGHTS) or not node.IOUS:
            raise UserError(
                "MODEL.ROI_BOX_CASCADE_HEAD: IOUS and BBOX_REG_WEIGHTS need an entry for every "
                f"stage, got {len(node.IOUS)} and {len(node.BBOX_REG_WEIGHTS)}"
            )
        stages = []
        for iou, weights in zip(node.IOUS, node.BBOX_REG_WEIGHTS, strict=True):
            stage: dict[str, Any] = super()._init_box_head(cfg, input_shape)
            stage["box_predictor"].box2box_transform = Box2BoxTransform(weights=weights)
            matching = {"NAME": "MaxIoU", "POSITIVE_IOU": iou, "NEGATIVE_IOU": iou}
            matching["LOW_QUALITY"] = None
            where = "MODEL.ROI_BOX_CASCADE_HEAD.IOUS"
            stage["assigner"] = build_component(matching, assigners, where)
            stages.append(stage)
        return _join_arguments(stages)

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Of yaml: one of each stage, unless MODEL.ROI_MASK_HEAD.EVERY_STAGE is False."""
        count = len(cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS)
        stages = []
        for _ in range(count if cfg.MODEL.ROI_MASK_HEAD.EVERY_STAGE else 1):
            stages.append(super()._init_mask_head(cfg, input_shape))
        return _join_arguments(stages)

    def stages(self) -> list[BoxStage]:
        """All stages, the first on the RPN's proposals."""
        parts = (self.box_head, self.box_predictor, self.assigner, self.criterion)
        masks: list[nn.Module] = []
        if self.mask_on:
            several = isinstance(self.mask_head, CascadeMaskHeads)
            masks = list(self.mask_head) if several else [self.mask_head]
        return [
            BoxStage(*stage, mask_head=masks[i] if i < len(masks) else None)
            for i, stage in enumerate(zip(*parts, strict=True))
        ]

    def _train_stages(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        trained: list[TrainedStage] = []
        found: dict[str, Tensor] = {}
        stages = self.stages()
        for i, stage in enumerate(stages):
            if i:
                last = trained[-1]
                with torch.no_grad():
                    boxes = stages[i - 1].predictor.predict_boxes(last.outputs, last.proposals)
                proposals = refine_proposals(boxes, last.proposals, training=True)
            trained.append(self._train_stage(features, proposals, targets, stage))
            log_metrics(trained[i].metrics, f"stage{i}/")
            found |= {f"{name}_stage{i}": loss for name, loss in trained[i].losses.items()}
        return trained[0].proposals, found

    def _forward_box(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> list[Instances]:
        """Detections from the mean of all stages' logits and the last stage's boxes."""
        total: Tensor | float = 0.0
        boxes: Sequence[Tensor] = ()
        stages = self.stages()
        for i, stage in enumerate(stages):
            if i:
                proposals = refine_proposals(boxes, proposals, training=False)
            logits, outputs = self._predict(features, proposals, stage)
            boxes = stage.predictor.predict_boxes((logits, outputs), proposals)
            total = total + logits.float()
        mean = total / len(stages)
        detections, _ = stages[-1].predictor.inference((mean, outputs), proposals)
        return detections


def _join(mask_heads: Sequence[nn.Module]) -> nn.Module:
    """One alone stays as it is, for Detectron2's names in the state dict."""
    return mask_heads[0] if len(mask_heads) == 1 else CascadeMaskHeads(mask_heads)


def _join_arguments(stages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The arguments of all stages as those of a cascade: lists of what each stage has."""
    joined = {name: value for name, value in stages[0].items() if name not in STAGE}
    for name, plural in STAGE.items():
        if name in stages[0]:
            joined[plural] = [own[name] for own in stages]
    return joined
