"""Box and mask heads on proposals, trained by any criterion.

Shapes: N images, R proposals of all of them, K classes, P positives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from ranking_det import assigners, criteria
from ranking_det.assigners import Assigner
from ranking_det.checks import check_choice, check_integer
from ranking_det.config import build_component
from ranking_det.criteria import CriterionBase, MaskTargets
from ranking_det.modeling.compatibility import check_roi_heads
from ranking_det.modeling.rcnn import box_predictor
from ranking_det.modeling.rcnn.box_predictor import RankingBoxPredictor
from ranking_det.modeling.rcnn.mask_head import (
    CONTINUOUS_LABELS,
    TrainedMasks,
    continuous_labels,
    keep_masked,
    limit_rois,
    mask_targets,
    own_masks,
)
from ranking_det.modeling.rcnn.pooling import pool_in_float32
from ranking_det.modeling.rcnn.proposals import (
    collect_positives,
    gather_candidates,
    match_proposals,
)
from ranking_det.modeling.step_metrics import log_metrics
from ranking_det.modeling.yaml_keys import build_sampler
from ranking_det.user_errors import UserError

SHARED = (
    *("num_classes", "proposal_append_gt", "box_in_features", "box_pooler"),
    *("mask_in_features", "mask_pooler"),
)
STAGE = {
    "box_head": "box_heads",
    "box_predictor": "box_predictors",
    "assigner": "assigners",
    "criterion": "criteria",
    "mask_head": "mask_heads",
}
"""Arguments that a cascade has one of for each stage, and their names there."""


class BoxStage(NamedTuple):
    """A box head, what it is trained with, and the mask head on its positives, if there is one."""

    head: nn.Module
    predictor: RankingBoxPredictor
    assigner: Assigner
    criterion: CriterionBase
    mask_head: nn.Module | None


class TrainedStage(NamedTuple):
    """What a stage made of its proposals in a step of training."""

    proposals: list[Instances]
    outputs: tuple[Tensor, Tensor]
    losses: dict[str, Tensor]
    metrics: dict[str, Tensor]


@ROI_HEADS_REGISTRY.register()
class RankingROIHeads(StandardROIHeads):
    """The heads of Faster and Mask R-CNN with any criterion; inference is Detectron2's.

    Every proposal is ranked. Both heads run before the losses, as the masks may be what positives
    are ranked by; a mask knows its place among the positives, and so its instance weight.

    Args:
        num_classes: K.
        box_in_features: names of the backbone's features, the finest first.
        box_pooler: Detectron2 ROIPooler.
        box_head: pooled features -> features.
        box_predictor: such as :class:`RankingBoxPredictor`, class-specific or not.
        assigner: see :mod:`ranking_det.assigners`; one that looks at one image's proposals alone.
        criterion: see :mod:`ranking_det.criteria`; all proposals are of level 0.
        sampler: see :mod:`ranking_det.modeling.rcnn.sampling`; None for every proposal, as the
            ranking papers have it.
        proposal_append_gt: whether the objects' own boxes are proposals too; not in aLRP Loss.
        mask_in_features: names of the backbone's features for masks; None for none.
        mask_pooler: Detectron2 ROIPooler.
        mask_head: Detectron2 mask head, whose own loss is not used; see :class:`RankingMaskHead`.
        max_mask_rois: positives of a stage that get a mask in training, of all images of the
            process together; random ones where there are more.
        continuous_label: what positives are ranked by, or what their scores are to be: "iou" of the
            box, "dice" of the predicted mask, their "mean", or "binary", 1 for all. A positive
            without a mask has its IoU in the place of the two in the middle.

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
        box_head: nn.Module,
        box_predictor: nn.Module,
        assigner: nn.Module,
        criterion: nn.Module,
        sampler: nn.Module | None = None,
        proposal_append_gt: bool = True,
        mask_in_features: Sequence[str] | None = None,
        mask_pooler: nn.Module | None = None,
        mask_head: nn.Module | None = None,
        max_mask_rois: int = 200,
        continuous_label: str = "iou",
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            # Detectron2's matching and sampling, which are replaced.
            batch_size_per_image=0,
            positive_fraction=0.0,
            proposal_matcher=None,
            proposal_append_gt=proposal_append_gt,
            box_in_features=list(box_in_features),
            box_pooler=box_pooler,
            box_head=box_head,
            box_predictor=box_predictor,
            mask_in_features=None if mask_in_features is None else list(mask_in_features),
            mask_pooler=mask_pooler,
            mask_head=mask_head,
        )
        check_integer("max_mask_rois", max_mask_rois, 1)
        check_choice("continuous_label", continuous_label, CONTINUOUS_LABELS)
        self.assigner = assigner
        self.criterion = criterion
        self.sampler = sampler
        self.max_mask_rois = max_mask_rois
        self.continuous_label = continuous_label
        check_roi_heads(self)
        pool_in_float32(self.box_pooler)
        if self.mask_on:
            pool_in_float32(self.mask_pooler)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Translate a yaml config; see :func:`ranking_det.modeling.add_ranking_config`."""
        model = cfg.MODEL
        if model.KEYPOINT_ON:
            raise UserError("MODEL.KEYPOINT_ON: the ranking heads have no keypoints")
        theirs = super().from_config(cfg, input_shape)
        names = {*SHARED, *STAGE, *STAGE.values()} & theirs.keys()
        if model.MASK_ON:
            stages = theirs["criteria"] if "criteria" in theirs else [theirs["criterion"]]
            for criterion in stages[: len(theirs.get("mask_heads", stages))]:
                task = build_component(model.MASK_CRITERION, criteria, "MODEL.MASK_CRITERION")
                criterion.localization.append(task)
        return {name: theirs[name] for name in names} | {
            "sampler": build_sampler(cfg, "SAMPLER"),
            "max_mask_rois": model.ROI_MASK_HEAD.MAX_ROIS,
            "continuous_label": model.ROI_HEADS.CONTINUOUS_LABEL,
        }

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        theirs: dict[str, Any] = super()._init_box_head(cfg, input_shape)
        model, heads, box = cfg.MODEL, cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
        predictor = build_component(
            model.BOX_PREDICTOR,
            box_predictor,
            "MODEL.BOX_PREDICTOR",
            input_shape=theirs["box_head"].output_shape,
            box2box_transform=Box2BoxTransform(weights=box.BBOX_REG_WEIGHTS),
            num_classes=heads.NUM_CLASSES,
            test_score_thresh=heads.SCORE_THRESH_TEST,
            test_nms_thresh=heads.NMS_THRESH_TEST,
            test_topk_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
            cls_agnostic_bbox_reg=box.CLS_AGNOSTIC_BBOX_REG,
        )
        return theirs | {
            "box_predictor": predictor,
            "assigner": build_component(model.ASSIGNER, assigners, "MODEL.ASSIGNER"),
            "criterion": build_component(model.CRITERION, criteria, "MODEL.CRITERION"),
        }

    def stages(self) -> list[BoxStage]:
        """The box heads that refine one another's boxes: one."""
        mask_head = self.mask_head if self.mask_on else None
        parts = self.box_head, self.box_predictor, self.assigner, self.criterion, mask_head
        return [BoxStage(*parts)]

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Detect, or in training compute the losses; see Detectron2's ROIHeads."""
        if not self.training:
            detections = self._forward_box(features, proposals)
            return self.forward_with_given_boxes(features, detections), {}
        if targets is None:
            raise ValueError("targets: expected the objects of each image, got None")
        return self._train_stages(features, proposals, targets)

    def _train_stages(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """The first stage's proposals, and the losses of all stages."""
        (stage,) = self.stages()
        trained = self._train_stage(features, proposals, targets, stage)
        log_metrics(trained.metrics, "roi/")
        return trained.proposals, trained.losses

    def _train_stage(
        self,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances],
        stage: BoxStage,
    ) -> TrainedStage:
        proposals, assignment = match_proposals(
            proposals, targets, stage.assigner, self.sampler, self.proposal_append_gt
        )
        outputs = self._predict(features, proposals, stage)
        candidates = gather_candidates(stage.predictor, *outputs, proposals, targets, assignment)
        masks = None
        if stage.mask_head is not None:
            positives = collect_positives(candidates, assignment, targets)
            masks = self._train_masks(features, positives, targets, stage.mask_head)
        quality = continuous_labels(self.continuous_label, candidates, masks)
        mask_targets = None
        if masks is not None:
            mask_targets = MaskTargets(masks.logits, masks.targets, masks.positive)
        candidates = replace(candidates, continuous_labels=quality, masks=mask_targets)
        output = stage.criterion(candidates)
        return TrainedStage(proposals, outputs, output.losses, output.metrics)

    def _predict(
        self, features: dict[str, Tensor], proposals: list[Instances], stage: BoxStage
    ) -> tuple[Tensor, Tensor]:
        """The logits (R, K) and the box outputs (R, 4) or (R, 4 K)."""
        maps = [features[name] for name in self.box_in_features]
        pooled = self.box_pooler(maps, [own.proposal_boxes for own in proposals])
        logits, outputs = stage.predictor(stage.head(pooled))
        return logits, outputs

    def _train_masks(
        self,
        features: dict[str, Tensor],
        positives: list[Instances],
        targets: list[Instances],
        mask_head: nn.Module,
    ) -> TrainedMasks:
        positives = limit_rois(keep_masked(positives, targets), self.max_mask_rois)
        maps = [features[name] for name in self.mask_in_features]
        pooled = self.mask_pooler(maps, [own.proposal_boxes for own in positives])
        logits = mask_head.layers(pooled)
        logits = own_masks(logits, torch.cat([own.gt_classes for own in positives]))
        masks = mask_targets(positives, targets, logits.shape[-1])
        return TrainedMasks(torch.cat([own.positive for own in positives]), logits, masks)
