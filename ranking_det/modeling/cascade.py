"""Cascade R-CNN: box heads that refine one another's boxes, each with a criterion of its own."""

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
from ranking_det.config import ConfigError, build_component
from ranking_det.modeling.logging import log_metrics
from ranking_det.modeling.proposals import refine_proposals
from ranking_det.modeling.roi_heads import STAGE, BoxStage, RankingROIHeads, TrainedStage


@ROI_HEADS_REGISTRY.register()
class RankingCascadeROIHeads(RankingROIHeads):
    """The heads of Cascade R-CNN (Cai and Vasconcelos, CVPR 2018), boxes and masks.

    As in Rank & Sort Loss, the gradients of the stages are not scaled down, in the test it is the
    logits that are averaged, and there is one mask head, on the proposals of the first stage, with
    that stage's weights and task loss. Losses end in ``_stage0`` and so on.

    Args:
        box_heads: of each stage, pooled features -> features.
        box_predictors: of each stage; class-agnostic.
        assigners: of each stage, usually of rising thresholds.
        criteria: of each stage.
        num_classes: see :class:`RankingROIHeads`, as for the other arguments.
        box_in_features: see there.
        box_pooler: see there.
        sampler: see there.
        proposal_append_gt: see there; anew in every stage.
        mask_in_features: see there.
        mask_pooler: see there.
        mask_head: see there.
        mask_criterion: see there.
        max_mask_rois: see there.
        continuous_label: see there; "dice" and "mean" are for the stage that has masks, the first.

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
        mask_head: nn.Module | None = None,
        mask_criterion: nn.Module | None = None,
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
            mask_head=mask_head,
            mask_criterion=mask_criterion,
            max_mask_rois=max_mask_rois,
            continuous_label=continuous_label,
        )

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Of yaml; MODEL.ROI_BOX_CASCADE_HEAD has the thresholds and coders."""
        node = cfg.MODEL.ROI_BOX_CASCADE_HEAD
        if len(node.IOUS) != len(node.BBOX_REG_WEIGHTS) or not node.IOUS:
            raise ConfigError(
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
        shared = {name: value for name, value in stages[0].items() if name not in STAGE}
        return shared | {plural: [own[name] for own in stages] for name, plural in STAGE.items()}

    def stages(self) -> list[BoxStage]:
        """All stages, the first on the RPN's proposals."""
        parts = (self.box_head, self.box_predictor, self.assigner, self.criterion)
        return [BoxStage(*stage) for stage in zip(*parts, strict=True)]

    def _train_boxes(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> tuple[TrainedStage, dict[str, Tensor]]:
        trained: list[TrainedStage] = []
        found: dict[str, Tensor] = {}
        stages = self.stages()
        for i, stage in enumerate(stages):
            if i:
                last = trained[-1]
                with torch.no_grad():
                    boxes = stages[i - 1].predictor.predict_boxes(last.outputs, last.proposals)
                proposals = refine_proposals(boxes, last.proposals, training=True)
            with_masks = self.mask_on and i == 0
            trained.append(self._train_stage(features, proposals, targets, stage, with_masks))
            own = trained[-1]
            log_metrics(own.result.metrics, f"stage{i}/")
            found |= {f"{name}_stage{i}": loss for name, loss in own.result.losses.items()}
        return trained[0], found

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
