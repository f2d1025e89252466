"""RetinaNet with an injected assigner and criterion.

Shapes: N images, R anchors of all levels and images, K classes, P positives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_anchor_generator, build_backbone
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from ranking_det import assigners, losses
from ranking_det.assigners import Assigner, Assignment, Predictions
from ranking_det.config import build_component
from ranking_det.losses import Candidates
from ranking_det.modeling.adapters import (
    flatten_level,
    flatten_levels,
    image_and_level,
    valid_cells,
)
from ranking_det.modeling.dense_head import DenseHead
from ranking_det.modeling.inference import select_detections
from ranking_det.modeling.logging import log_metrics


@META_ARCH_REGISTRY.register()
class RankingRetinaNet(DenseDetector):
    """An anchor-based dense detector: any assigner with any criterion.

    The criterion sees the raw logits of all classes, levels and images of the process at once.

    Args:
        backbone: Detectron2 backbone.
        head: ``(features) -> (logits, box outputs)`` per level, such as :class:`DenseHead`.
        head_in_features: names of the backbone's features for the head, the finest first.
        anchor_generator: Detectron2 anchor generator.
        box2box_transform: Detectron2 box coder.
        assigner: see :mod:`ranking_det.assigners`.
        criterion: see :mod:`ranking_det.losses`.
        num_classes: K.
        test_score_thresh: detections of at most this score are dropped. The scores of a ranking
            loss have no scale of their own, so 0 is the safe value for short trainings.
        test_topk_candidates: (anchor, class) pairs kept per level before NMS.
        test_nms_thresh: IoU above which the lower-scored of two boxes of a class is dropped.
        max_detections_per_image: detections kept per image.
        pixel_mean: per channel, in the order of the input format.
        pixel_std: per channel.
        input_format: "RGB" or "BGR", what the data loader gives.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: Sequence[str],
        anchor_generator: nn.Module,
        box2box_transform: Box2BoxTransform,
        assigner: Assigner,
        criterion: nn.Module,
        num_classes: int,
        test_score_thresh: float = 0.05,
        test_topk_candidates: int = 1000,
        test_nms_thresh: float = 0.5,
        max_detections_per_image: int = 100,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "BGR",
    ) -> None:
        super().__init__(
            backbone, head, list(head_in_features), pixel_mean=pixel_mean, pixel_std=pixel_std
        )
        self.anchor_generator = anchor_generator
        self.box2box_transform = box2box_transform
        self.assigner = assigner
        self.criterion = criterion
        self.num_classes = num_classes
        self.test_score_thresh = test_score_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_nms_thresh = test_nms_thresh
        self.max_detections_per_image = max_detections_per_image
        self.input_format = input_format
        shapes = backbone.output_shape()
        self.strides = [shapes[name].stride for name in self.head_in_features]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Translate a yaml config; see :func:`ranking_det.modeling.add_ranking_config`."""
        backbone = build_backbone(cfg)
        retinanet = cfg.MODEL.RETINANET
        shapes = [backbone.output_shape()[name] for name in retinanet.IN_FEATURES]
        anchor_generator = build_anchor_generator(cfg, shapes)
        head = DenseHead(
            in_channels=shapes[0].channels,
            num_classes=retinanet.NUM_CLASSES,
            num_anchors=anchor_generator.num_anchors[0],
            num_convs=retinanet.NUM_CONVS,
            norm=retinanet.NORM,
            prior_prob=retinanet.PRIOR_PROB,
        )
        return {
            "backbone": backbone,
            "head": head,
            "head_in_features": retinanet.IN_FEATURES,
            "anchor_generator": anchor_generator,
            "box2box_transform": Box2BoxTransform(weights=retinanet.BBOX_REG_WEIGHTS),
            "assigner": build_component(cfg.MODEL.ASSIGNER, assigners, "MODEL.ASSIGNER"),
            "criterion": build_component(cfg.MODEL.CRITERION, losses, "MODEL.CRITERION"),
            "num_classes": retinanet.NUM_CLASSES,
            "test_score_thresh": retinanet.SCORE_THRESH_TEST,
            "test_topk_candidates": retinanet.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": retinanet.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
        }

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: tuple[list[Tensor], list[Tensor]],
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Assign, gather the candidates, and call the criterion."""
        anchors = [boxes.tensor for boxes in self.anchor_generator(features)]
        logits = flatten_levels(predictions[0], self.num_classes)
        outputs = flatten_levels(predictions[1], 4).float()
        grids = [feature.shape[-2:] for feature in features]
        valid = valid_cells(
            images.image_sizes, grids, self.strides, self.anchor_generator.num_anchors, self.device
        )
        assignment = self.assign(anchors, gt_instances, valid, logits, outputs)
        candidates = self.gather(anchors, gt_instances, assignment, logits, outputs)
        output = self.criterion(candidates, assignment.labels)
        log_metrics(output.metrics)
        return output.losses

    def assign(
        self,
        anchors: list[Tensor],
        gt_instances: list[Instances],
        valid: Tensor,
        logits: Tensor,
        outputs: Tensor,
    ) -> Assignment:
        """Call the assigner; the predictions are decoded only for one that needs them."""
        predictions = None
        if self.assigner.needs_predictions:
            with torch.no_grad():
                boxes = self.decode(outputs, torch.cat(anchors).repeat(len(gt_instances), 1))
            predictions = Predictions(logits.detach(), boxes)
        gt_boxes = [instances.gt_boxes.tensor for instances in gt_instances]
        gt_classes = [instances.gt_classes for instances in gt_instances]
        return self.assigner(anchors, gt_boxes, gt_classes, valid, predictions)

    def gather(
        self,
        anchors: list[Tensor],
        gt_instances: list[Instances],
        assignment: Assignment,
        logits: Tensor,
        outputs: Tensor,
    ) -> Candidates:
        """All rows' logits, and the boxes of the positives."""
        rows = torch.nonzero(assignment.labels >= 0).squeeze(1)
        num_anchors = sum(len(level) for level in anchors)
        positive_anchors = torch.cat(anchors)[rows % num_anchors]
        gt_boxes = torch.cat([instances.gt_boxes.tensor for instances in gt_instances])
        # Taken once: a balance by gradients looks for the boxes' gradient at these very outputs.
        own = outputs[rows]
        image, level = image_and_level(
            len(gt_instances), [len(level) for level in anchors], logits.device
        )
        return Candidates(
            logits=logits,
            image=image,
            level=level,
            num_images=len(gt_instances),
            box_outputs=own,
            boxes=self.decode(own, positive_anchors),
            anchors=positive_anchors,
            gt_boxes=gt_boxes[assignment.gt_index[rows]],
        )

    def decode(self, outputs: Tensor, anchors: Tensor) -> Tensor:
        """Raw box outputs (n, 4) relative to anchors (n, 4) -> XYXY boxes (n, 4) in pixels."""
        return self.box2box_transform.apply_deltas(outputs, anchors)

    def forward_inference(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: tuple[list[Tensor], list[Tensor]],
    ) -> list[Instances]:
        """Detections of every image, in its input coordinates."""
        anchors = [boxes.tensor for boxes in self.anchor_generator(features)]
        logits = [flatten_level(level, self.num_classes) for level in predictions[0]]
        outputs = [flatten_level(level, 4) for level in predictions[1]]
        return [
            select_detections(
                [level[i] for level in logits],
                [level[i] for level in outputs],
                anchors,
                self.decode,
                size,
                score_thresh=self.test_score_thresh,
                topk_candidates=self.test_topk_candidates,
                nms_thresh=self.test_nms_thresh,
                max_detections=self.max_detections_per_image,
            )
            for i, size in enumerate(images.image_sizes)
        ]
