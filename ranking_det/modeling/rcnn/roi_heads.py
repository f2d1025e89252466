"""RoI heads of Faster and Mask R-CNN with any criterion, in one or several stages.

Shapes in this folder:

    N: images of the batch
    R: rows, the proposals (RoIs) of all images after sampling, image-major; in training with the
        ground-truth boxes of each image after its proposals
    R_i: rows of image i
    K: classes of objects; there is no class for background
    P: positives, the rows whose label is a class
    Q: positives that get a mask, at most ``max_mask_rois``
    G: ground-truth boxes of all images
    S: side of a predicted mask in pixels

Names:

    logits: (R, K) raw class scores; the score of a class is sigmoid(logit), or with ``softmax`` the
        softmax of the logits and a background logit of 0
    outputs: (R, 4) or (R, 4 K) raw box outputs, which the box coder decodes (Detectron2's "deltas")
    assignment: labels (R,), a class in [0, K), BACKGROUND or IGNORE; and gt_index (R,), the row of
        the matched box among the G, -1 if there is none
    anchors: (P, 4) XYXY in pixels, the name of the positives' proposals in the candidates
    mask logits: (Q, S, S) of each positive's class
    continuous labels: (P,) in [0, 1], the values by which the positives are ranked
    candidates: all that the criterion needs of the R rows and P positives
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
from ranking_det.checks import check_choice, check_classes, check_integer
from ranking_det.criteria import BoxTargets, Candidates, CriterionBase, MaskTargets
from ranking_det.modeling.mask_targets import CONTINUOUS_LABELS, continuous_labels
from ranking_det.modeling.part_checks import check_stage_parts
from ranking_det.modeling.rcnn import box_predictor, sampling
from ranking_det.modeling.rcnn.box_predictor import BoxPredictions, RankingBoxPredictor
from ranking_det.modeling.rcnn.mask_head import crop_masks, sample_mask_positives, select_class
from ranking_det.modeling.rcnn.proposals import match_proposals, refine_proposals
from ranking_det.modeling.step_metrics import log_metrics
from ranking_det.modeling.yaml_keys import build_node
from ranking_det.user_errors import UserError


class Stage(NamedTuple):
    """One stage of RoI heads: box head, box predictor, assigner, criterion, optional mask head."""

    head: nn.Module
    predictor: RankingBoxPredictor
    assigner: Assigner
    criterion: CriterionBase
    mask_head: nn.Module | None
    loss_weight: float = 1.0


class StagedROIHeads(nn.Module):
    """Base class of RoI heads: one or several stages of box heads, with or without mask heads.

    Each stage refines the boxes of the previous one. All proposals are ranked. The box head and the
    mask head of a stage both run before its losses, because the positives may be ranked by the
    quality of their masks. Each mask has the index, and so the instance weight, of its
    positive. At inference the logits of all stages are averaged, and the boxes come from the last
    stage.

    Args:
        num_classes: K, >= 1.
        box_in_features: names of the backbone's features, the finest first.
        box_pooler: Detectron2 ROIPooler.
        sampler: see :mod:`ranking_det.modeling.rcnn.sampling`; None for all proposals, as in the
            ranking papers.
        proposal_append_gt: whether to append the ground-truth boxes to the proposals in every
            stage. aLRP Loss does not append them.
        mask_in_features: names of the backbone's features for masks; None for no masks.
        mask_pooler: Detectron2 ROIPooler, for the mask heads of all stages.
        max_mask_rois: positives per stage that get a mask in training, of all images of the process
            together, >= 1; chosen at random if there are more.
        continuous_label: the values by which the positives are ranked. Losses on continuous labels
            also use them as targets of the scores: "iou" of the box, "dice" of the predicted mask,
            the "mean" of both, or "binary", 1 for all. For "dice" and "mean", a positive without a
            mask has its IoU.

    Raises:
        ValueError: an argument is out of range, or the parts do not fit together.
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
        # Detectron2's test-time augmentation sets this attribute to False temporarily.
        self.mask_on = mask_in_features is not None
        self.mask_in_features = list(mask_in_features or ())
        self.mask_pooler = mask_pooler
        self.max_mask_rois = max_mask_rois
        self.continuous_label = continuous_label
        if self.mask_on and mask_pooler is None:
            raise ValueError("mask_pooler: expected a pooler, got None")
        if not self.mask_on and continuous_label in ("dice", "mean"):
            raise ValueError(
                "continuous_label: expected 'iou' or 'binary' because there is no mask head, got "
                f"{continuous_label!r}"
            )
        for pooler in (box_pooler, mask_pooler):
            if pooler is not None:
                pooler.register_forward_pre_hook(_features_to_float32)

    def stages(self) -> list[Stage]:
        """Return all stages, in order; the first refines the RPN's proposals."""
        raise NotImplementedError

    def _set_parts(self, *parts: nn.Module, mask_head: nn.Module | None) -> None:
        """Set the parts of all stages, and check that they fit.

        Args:
            parts: the box head, the box predictor, the assigner and the criterion, or lists of
                each.
            mask_head: the mask head, or a list of them; None without masks.
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
            check_stage_parts(*stage[1:5], self.num_classes, self.continuous_label)
        if len({stage.predictor.softmax for stage in stages}) > 1:
            raise ValueError("criteria: expected either softmax or sigmoid in all stages, got both")
        if self.mask_on and stages[0].mask_head is None:
            raise ValueError("mask_head: expected one for mask_in_features, got None")

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Translate a yaml config to the arguments that all stages share.

        Args:
            cfg: a Detectron2 config with the project's keys.
            input_shape: the shapes of the backbone's features, by name.

        Returns:
            The arguments by name, without the arguments for masks.

        Raises:
            UserError: the config has keypoints, or a component cannot be built.
        """
        model = cfg.MODEL
        if model.KEYPOINT_ON:
            raise UserError(
                "MODEL.KEYPOINT_ON: expected False, got True; the ranking heads have no keypoints"
            )
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
        """Compute the losses in training; detect objects at inference, as Detectron2's ROIHeads.

        Args:
            images: the N images; not used.
            features: the features of the backbone, by name, each (N, C, H_l, W_l).
            proposals: one Instances per image, with ``proposal_boxes``, and ``objectness_logits``
                in training.
            targets: one Instances per image, with ``gt_boxes`` and ``gt_classes``, and ``gt_masks``
                for masks; needed in training.

        Returns:
            In training, the sampled proposals of the first stage and the losses by name. At
            inference, one Instances per image, with ``pred_boxes``, ``scores``, ``pred_classes``
            and, if there is a mask head, ``pred_masks``; and no losses.

        Raises:
            ValueError: there are no ``targets`` in training, targets have no masks for a mask head,
                or a class is out of range (checked on the CPU).
        """
        if not self.training:
            detections = self._detect_boxes(features, proposals)
            return self.forward_with_given_boxes(features, detections), {}
        if targets is None:
            raise ValueError("targets: expected the objects of each image, got None")
        for i, objects in enumerate(targets):
            check_classes(f"targets[{i}].gt_classes", objects.gt_classes, self.num_classes)
        first_proposals, losses, stages = None, {}, self.stages()
        for i, stage in enumerate(stages):
            proposals, assignment = match_proposals(
                proposals, targets, stage.assigner, self.sampler, self.proposal_append_gt
            )
            first_proposals = first_proposals or proposals
            predictions = self._predict(features, proposals, stage)
            candidates = self._gather(features, proposals, targets, stage, assignment, predictions)
            output = stage.criterion(candidates)
            suffix, prefix = (f"_stage{i}", f"stage{i}/") if len(stages) > 1 else ("", "roi/")
            for name, loss in output.losses.items():
                losses[f"{name}{suffix}"] = stage.loss_weight * loss
            log_metrics(output.metrics, prefix)
            if i + 1 < len(stages):
                with torch.no_grad():
                    boxes = stage.predictor.predict_boxes(predictions, proposals)
                proposals = refine_proposals(boxes, proposals, training=True)
        return first_proposals or [], losses

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
        """Build the criterion's candidates: all logits, boxes and masks of the positives."""
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
            index = sample_mask_positives(gt_index, targets, self.max_mask_rois)
            counts = torch.bincount(image[rows[index]], minlength=len(targets)).tolist()
            rois = anchors[index].split(counts)
            logits = stage.mask_head.layers(self._pool_masks(features, rois))
            logits = select_class(logits, classes[index])
            gt_masks = crop_masks(rois, gt_index[index].split(counts), targets, logits.shape[-1])
            masks = MaskTargets(logits, gt_masks, index)
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
        """Pool features (Q, C, h, w) at boxes: one tensor (Q_i, 4) per image."""
        maps = [features[name] for name in self.mask_in_features]
        return self.mask_pooler(maps, [Boxes(image) for image in rois])

    def _detect_boxes(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> list[Instances]:
        """Detect, with the mean of all stages' logits and the boxes of the last stage."""
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
        """Add masks to detections, as Detectron2's ROIHeads do.

        Args:
            features: the features of the backbone, by name, each (N, C, H_l, W_l).
            instances: one Instances per image, with ``pred_boxes`` and ``pred_classes``.

        Returns:
            The same instances, with ``pred_masks`` (n_i, 1, S, S) if there is a mask head.
        """
        if not self.mask_on:
            return instances
        pooled = self._pool_masks(features, [image.pred_boxes.tensor for image in instances])
        return self.mask_head(pooled, instances)


@ROI_HEADS_REGISTRY.register()
class RankingROIHeads(StagedROIHeads):
    """RoI heads of Faster R-CNN and Mask R-CNN with any criterion: a single stage.

    Args:
        box_head: pooled features -> features.
        box_predictor: a :class:`RankingBoxPredictor`, class-specific or class-agnostic.
        assigner: see :mod:`ranking_det.assigners`; it is called with the proposals of one image at
            a time.
        criterion: see :mod:`ranking_det.criteria`. All proposals are of level 0. With a mask head
            it needs a mask loss.
        mask_head: Detectron2 mask head, without its loss. See :class:`RankingMaskHead`.
        shared: the arguments of :class:`StagedROIHeads`.

    Raises:
        ValueError: the parts do not fit together.
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
        """Translate a yaml config to the constructor's arguments.

        :func:`ranking_det.modeling.add_ranking_config` describes the keys.

        Args:
            cfg: a Detectron2 config with the project's keys.
            input_shape: the shapes of the backbone's features, by name.

        Returns:
            The arguments by name.

        Raises:
            UserError: the config has keypoints, or a component cannot be built.
        """
        weights = cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS
        parts = build_box_parts(cfg, input_shape, weights)
        parts["assigner"] = build_node(cfg, "ASSIGNER", assigners)
        if cfg.MODEL.MASK_ON:
            parts |= build_mask_part(cfg, input_shape, parts["criterion"])
        return super().from_config(cfg, input_shape) | parts

    def stages(self) -> list[Stage]:
        """Return the single stage."""
        mask_head = self.mask_head if self.mask_on else None
        parts = self.box_head, self.box_predictor, self.assigner, self.criterion
        return [Stage(*parts, mask_head)]


def build_box_parts(
    cfg: CfgNode, input_shape: dict[str, ShapeSpec], coder_weights: Sequence[float]
) -> dict[str, Any]:
    """Build the box head, box predictor and criterion of a stage from a yaml config.

    Args:
        cfg: a Detectron2 config with the project's keys.
        input_shape: the shapes of the backbone's features, by name.
        coder_weights: the 4 weights of the box coder, > 0.

    Returns:
        ``box_head``, ``box_predictor`` and ``criterion``.

    Raises:
        UserError: a component cannot be built.
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
    """Build Detectron2's mask head, and add MODEL.MASK_CRITERION to the criterion.

    Args:
        cfg: a Detectron2 config with the project's keys.
        input_shape: the shapes of the backbone's features, by name.
        criterion: the criterion of the stage, which is changed in place.

    Returns:
        ``mask_in_features``, ``mask_pooler`` and ``mask_head``.

    Raises:
        UserError: a criterion cannot be built.
    """
    for part in criterion.criteria:
        part.localization.append(build_node(cfg, "MASK_CRITERION", criteria))
    return StandardROIHeads._init_mask_head(cfg, input_shape)


def _features_to_float32(pooler: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Convert features to float32 before a Detectron2 ROIPooler pools them under autocast.

    The pooler converts boxes to the dtype of the features. In bfloat16 a box at 1,000 px moves by
    up to 4 px, away from its label and its mask.
    """
    maps, *boxes = args
    if torch.is_autocast_enabled(maps[0].device.type):
        maps = [features.float() for features in maps]
    return (maps, *boxes)
