"""Stages of box and mask heads on proposals, trained by any criterion.

Shapes: N images, R proposals of all of them, K classes, P positives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_box_head
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from ranking_det import assigners, criteria
from ranking_det.assigners import Assigner, Assignment
from ranking_det.checks import check_choice, check_integer
from ranking_det.criteria import BoxTargets, Candidates, CriterionBase, MaskTargets
from ranking_det.modeling.part_checks import check_stage_parts
from ranking_det.modeling.rcnn import box_predictor, sampling
from ranking_det.modeling.rcnn.box_predictor import BoxPredictions, RankingBoxPredictor
from ranking_det.modeling.rcnn.mask_head import choose_masked, cut_masks, select_class
from ranking_det.modeling.rcnn.proposals import match_proposals, refine_proposals
from ranking_det.modeling.step_metrics import log_metrics
from ranking_det.modeling.yaml_keys import build_node
from ranking_det.user_errors import UserError

CONTINUOUS_LABELS = ("iou", "dice", "mean", "binary")
"""What the positives of an R-CNN may be ranked by (Oksuz et al., ICCV 2021, section S3.4)."""


class Stage(NamedTuple):
    """A box head, what it is trained with, and the mask head on its positives, if there is one."""

    head: nn.Module
    predictor: RankingBoxPredictor
    assigner: Assigner
    criterion: CriterionBase
    mask_head: nn.Module | None


class StagedROIHeads(nn.Module):
    """Box heads that refine one another's boxes, and their mask heads; one or several stages.

    Every proposal is ranked. Both heads of a stage run before its losses, as the masks may be what
    positives are ranked by; a mask knows its place among the positives, and so its instance weight.
    At inference the logits of all stages are averaged, and the boxes are the last stage's.

    Args:
        num_classes: K.
        box_in_features: names of the backbone's features, the finest first.
        box_pooler: Detectron2 ROIPooler.
        sampler: see :mod:`ranking_det.modeling.rcnn.sampling`; None for every proposal, as the
            ranking papers have it.
        proposal_append_gt: whether the objects' own boxes are proposals too, in every stage; not in
            aLRP Loss.
        mask_in_features: names of the backbone's features for masks; None for none.
        mask_pooler: Detectron2 ROIPooler, for the mask heads of all stages.
        max_mask_rois: positives of a stage that get a mask in training, of all images of the
            process together; random ones where there are more.
        continuous_label: what positives are ranked by, or what their scores are to be: "iou" of the
            box, "dice" of the predicted mask, their "mean", or "binary", 1 for all. A positive
            without a mask has its IoU in the place of the two in the middle.

    Raises:
        ValueError: parts that do not fit together.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        box_in_features: Sequence[str],
        box_pooler: nn.Module,
        sampler: nn.Module | None = None,
        proposal_append_gt: bool = True,
        mask_in_features: Sequence[str] | None = None,
        mask_pooler: nn.Module | None = None,
        max_mask_rois: int = 200,
        continuous_label: str = "iou",
    ) -> None:
        super().__init__()
        check_integer("max_mask_rois", max_mask_rois, 1)
        check_choice("continuous_label", continuous_label, CONTINUOUS_LABELS)
        self.num_classes = num_classes
        self.box_in_features = list(box_in_features)
        self.box_pooler = box_pooler
        self.sampler = sampler
        self.proposal_append_gt = proposal_append_gt
        # Detectron2's test-time augmentation switches masks off for a while.
        self.mask_on = mask_in_features is not None
        self.mask_in_features = list(mask_in_features or ())
        self.mask_pooler = mask_pooler
        self.max_mask_rois = max_mask_rois
        self.continuous_label = continuous_label
        if self.mask_on and mask_pooler is None:
            raise ValueError("mask_pooler: expected a pooler, got None")
        if not self.mask_on and continuous_label in ("dice", "mean"):
            raise ValueError(f"continuous_label: {continuous_label!r} needs a mask head")
        for pooler in (box_pooler, mask_pooler):
            if pooler is not None:
                pooler.register_forward_pre_hook(_widen)

    def stages(self) -> list[Stage]:
        """All stages, the first on the RPN's proposals."""
        raise NotImplementedError

    def _set_parts(self, *parts: nn.Module, mask_head: nn.Module | None) -> None:
        """Set the parts of all stages, and check that they fit.

        Args:
            parts: the box head, the box predictor, the assigner and the criterion, or lists of
                each.
            mask_head: the mask head, or a list of them; None for none.
        """
        self.box_head, self.box_predictor, assigner, criterion = parts
        if self.mask_on:
            self.mask_head = mask_head
        self.assigner, self.criterion = assigner, criterion
        stages = self.stages()
        for stage in stages:
            if not isinstance(stage.predictor, RankingBoxPredictor):
                kind = type(stage.predictor).__name__
                raise ValueError(f"box_predictor: expected a RankingBoxPredictor, got {kind}")
            check_stage_parts(*stage[1:], self.num_classes, self.continuous_label)
        if len({stage.predictor.softmax for stage in stages}) > 1:
            raise ValueError("criteria: expected either softmax or sigmoid in all stages")
        if self.mask_on and stages[0].mask_head is None:
            raise ValueError("mask_head: expected one for mask_in_features, got None")

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Translate what a yaml config says of all stages together."""
        model = cfg.MODEL
        if model.KEYPOINT_ON:
            raise UserError("MODEL.KEYPOINT_ON: the ranking heads have no keypoints")
        names, box = model.ROI_HEADS.IN_FEATURES, model.ROI_BOX_HEAD
        box_pooler = ROIPooler(
            output_size=box.POOLER_RESOLUTION,
            scales=tuple(1.0 / input_shape[name].stride for name in names),
            sampling_ratio=box.POOLER_SAMPLING_RATIO,
            pooler_type=box.POOLER_TYPE,
        )
        return {
            "num_classes": model.ROI_HEADS.NUM_CLASSES,
            "box_in_features": names,
            "box_pooler": box_pooler,
            "sampler": build_node(cfg, "SAMPLER", sampling) if model.SAMPLER.NAME else None,
            "proposal_append_gt": model.ROI_HEADS.PROPOSAL_APPEND_GT,
            "max_mask_rois": model.ROI_MASK_HEAD.MAX_ROIS,
            "continuous_label": model.ROI_HEADS.CONTINUOUS_LABEL,
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Detect, or in training compute the losses; see Detectron2's ROIHeads."""
        if not self.training:
            detections = self._detect_boxes(features, proposals)
            return self.forward_with_given_boxes(features, detections), {}
        if targets is None:
            raise ValueError("targets: expected the objects of each image, got None")
        first, losses, stages = None, {}, self.stages()
        for i, stage in enumerate(stages):
            proposals, assignment = match_proposals(
                proposals, targets, stage.assigner, self.sampler, self.proposal_append_gt
            )
            first = first or proposals
            predictions = self._predict(features, proposals, stage)
            candidates = self._gather(features, proposals, targets, stage, assignment, predictions)
            output = stage.criterion(candidates)
            suffix, prefix = (f"_stage{i}", f"stage{i}/") if len(stages) > 1 else ("", "roi/")
            losses |= {f"{name}{suffix}": loss for name, loss in output.losses.items()}
            log_metrics(output.metrics, prefix)
            if i + 1 < len(stages):
                with torch.no_grad():
                    boxes = stage.predictor.predict_boxes(predictions, proposals)
                proposals = refine_proposals(boxes, proposals, training=True)
        return first or [], losses

    def _predict(
        self, features: dict[str, Tensor], proposals: list[Instances], stage: Stage
    ) -> BoxPredictions:
        maps = [features[name] for name in self.box_in_features]
        pooled = self.box_pooler(maps, [image.proposal_boxes for image in proposals])
        return stage.predictor(stage.head(pooled))

    def _gather(
        self,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances],
        stage: Stage,
        assignment: Assignment,
        predictions: BoxPredictions,
    ) -> Candidates:
        """All proposals' logits, and the boxes and masks of the positives."""
        labels = assignment.labels
        rows = torch.nonzero(labels >= 0).squeeze(1)
        classes, gt_index = labels[rows], assignment.gt_index[rows]
        sizes = torch.tensor([len(instances) for instances in proposals])
        image = torch.arange(len(proposals)).repeat_interleave(sizes).to(rows.device)
        outputs = stage.predictor.outputs_of(predictions.outputs, rows, classes)
        anchors = torch.cat([instances.proposal_boxes.tensor for instances in proposals])[rows]
        decoded = stage.predictor.box2box_transform.apply_deltas(outputs, anchors)
        gt_boxes = torch.cat([objects.gt_boxes.tensor for objects in targets])[gt_index]
        boxes = BoxTargets(outputs, decoded, anchors, gt_boxes)
        masks = None
        if stage.mask_head is not None:
            index = choose_masked(gt_index, targets, self.max_mask_rois)
            counts = torch.bincount(image[rows[index]], minlength=len(targets)).tolist()
            rois = anchors[index].split(counts)
            logits = stage.mask_head.layers(self._pool_masks(features, rois))
            logits = select_class(logits, classes[index])
            cut = cut_masks(rois, gt_index[index].split(counts), targets, logits.shape[-1])
            masks = MaskTargets(logits, cut, index)
        return Candidates(
            logits=predictions.logits,
            labels=labels,
            positives=rows,
            image=image,
            level=torch.zeros_like(image),
            num_images=len(proposals),
            boxes=boxes,
            masks=masks,
            continuous_labels=continuous_labels(self.continuous_label, boxes, masks),
        )

    def _pool_masks(self, features: dict[str, Tensor], rois: Sequence[Tensor]) -> Tensor:
        """Features (Q, C, h, w) of boxes, per image (Q_i, 4)."""
        maps = [features[name] for name in self.mask_in_features]
        return self.mask_pooler(maps, [Boxes(image) for image in rois])

    def _detect_boxes(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> list[Instances]:
        """Detections from the mean of all stages' logits and the last stage's boxes."""
        total, stages = 0.0, self.stages()
        for i, stage in enumerate(stages):
            predictions = self._predict(features, proposals, stage)
            total = total + predictions.logits.float()
            if i + 1 < len(stages):
                boxes = stage.predictor.predict_boxes(predictions, proposals)
                proposals = refine_proposals(boxes, proposals, training=False)
        predictions = predictions._replace(logits=total / len(stages))
        return stages[-1].predictor.inference(predictions, proposals)

    def forward_with_given_boxes(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Add masks to detections, as Detectron2's heads do.

        Args:
            features: the backbone's, by name.
            instances: per image ``pred_boxes`` and ``pred_classes``.

        Returns:
            The same, with ``pred_masks`` if there is a mask head.
        """
        if not self.mask_on:
            return instances
        pooled = self._pool_masks(features, [image.pred_boxes.tensor for image in instances])
        return self.mask_head(pooled, instances)


@ROI_HEADS_REGISTRY.register()
class RankingROIHeads(StagedROIHeads):
    """The heads of Faster and Mask R-CNN with any criterion: a single stage.

    Args:
        box_head: pooled features -> features.
        box_predictor: a :class:`RankingBoxPredictor`, class-specific or not.
        assigner: see :mod:`ranking_det.assigners`; one that looks at one image's proposals alone.
        criterion: see :mod:`ranking_det.criteria`; all proposals are of level 0. With a mask head
            it has a task on masks.
        mask_head: Detectron2 mask head, whose own loss is not used; see :class:`RankingMaskHead`.
        shared: see :class:`StagedROIHeads`.
    """

    @configurable
    def __init__(
        self,
        *,
        box_head: nn.Module,
        box_predictor: nn.Module,
        assigner: nn.Module,
        criterion: nn.Module,
        mask_head: nn.Module | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self._set_parts(box_head, box_predictor, assigner, criterion, mask_head=mask_head)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Translate a yaml config; see :func:`ranking_det.modeling.add_ranking_config`."""
        weights = cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS
        parts = build_box_parts(cfg, input_shape, weights)
        parts["assigner"] = build_node(cfg, "ASSIGNER", assigners)
        if cfg.MODEL.MASK_ON:
            parts |= build_mask_part(cfg, input_shape, parts["criterion"])
        return super().from_config(cfg, input_shape) | parts

    def stages(self) -> list[Stage]:
        """The one stage."""
        mask_head = self.mask_head if self.mask_on else None
        parts = self.box_head, self.box_predictor, self.assigner, self.criterion
        return [Stage(*parts, mask_head)]


def continuous_labels(label: str, boxes: BoxTargets, masks: MaskTargets | None) -> Tensor | None:
    """What the positives are ranked by.

    Args:
        label: one of CONTINUOUS_LABELS: the IoU of the box, the Dice coefficient of the mask, the
            mean of both, or 1 for all. A positive without a mask has its IoU.
        boxes: of the P positives.
        masks: of some of them; None for none.

    Returns:
        (P,) in [0, 1], without gradient; None for the IoU.
    """
    if label == "binary":
        return torch.ones_like(boxes.boxes[:, 0])
    if label == "iou" or masks is None:
        return None
    labels, share = boxes.overlap(), 1.0 if label == "dice" else 0.5
    dice = masks.overlap().to(labels.dtype)
    labels[masks.index] = (1 - share) * labels[masks.index] + share * dice
    return labels


def build_box_parts(
    cfg: CfgNode, input_shape: dict[str, ShapeSpec], coder_weights: Sequence[float]
) -> dict[str, Any]:
    """Build the parts of a stage for boxes from a yaml config, but for the assigner.

    Args:
        cfg: the config.
        input_shape: of the backbone's features.
        coder_weights: of the box coder.
    """
    heads, box = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
    size = box.POOLER_RESOLUTION
    channels = input_shape[heads.IN_FEATURES[0]].channels
    head = build_box_head(cfg, ShapeSpec(channels=channels, height=size, width=size))
    return {
        "box_head": head,
        "box_predictor": build_node(
            cfg,
            "BOX_PREDICTOR",
            box_predictor,
            input_shape=head.output_shape,
            box2box_transform=Box2BoxTransform(weights=coder_weights),
            num_classes=heads.NUM_CLASSES,
            test_score_thresh=heads.SCORE_THRESH_TEST,
            test_nms_thresh=heads.NMS_THRESH_TEST,
            test_topk_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
            cls_agnostic_bbox_reg=box.CLS_AGNOSTIC_BBOX_REG,
        ),
        "criterion": build_node(cfg, "CRITERION", criteria),
    }


def build_mask_part(
    cfg: CfgNode, input_shape: dict[str, ShapeSpec], criterion: CriterionBase
) -> dict[str, Any]:
    """Build the mask part as Detectron2 does, and add MODEL.MASK_CRITERION to the criterion.

    Returns:
        ``mask_in_features``, ``mask_pooler`` and ``mask_head``.
    """
    for part in criterion.criteria:
        part.localization.append(build_node(cfg, "MASK_CRITERION", criteria))
    return StandardROIHeads._init_mask_head(cfg, input_shape)


def _widen(pooler: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Let a Detectron2 ROIPooler widen the features under autocast before it pools.

    It gives the boxes the features' type, and in bfloat16 a box at 1,000 px moves by up to 4 px,
    away from its label and its mask.
    """
    maps, *boxes = args
    if torch.is_autocast_enabled(maps[0].device.type):
        maps = [features.float() for features in maps]
    return (maps, *boxes)
