"""What dense detectors share: an injected assigner, criterion and inference over a grid of boxes.

Shapes: N images, R anchors of all levels and images, K classes, P positives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from ranking_det import assigners, criteria
from ranking_det.assigners import Assigner
from ranking_det.criteria import CriterionBase
from ranking_det.modeling.anchor_candidates import AnchorCandidates
from ranking_det.modeling.dense import head as dense_head
from ranking_det.modeling.dense import inference as dense_inference
from ranking_det.modeling.dense.inference import DenseInference
from ranking_det.modeling.feature_maps import MapPredictions, flatten_level, flatten_levels
from ranking_det.modeling.interface import DetectorInterface, Positives
from ranking_det.modeling.part_checks import check_dense_parts
from ranking_det.modeling.raw_detections import RawDetections
from ranking_det.modeling.step_metrics import log_metrics
from ranking_det.modeling.tta import DenseDetectorWithTTA
from ranking_det.modeling.yaml_keys import build_node


class RankingDenseDetector(AnchorCandidates, DetectorInterface, DenseDetector):
    """A dense detector with any assigner, any criterion and any inference.

    The criterion sees the raw logits of all classes, levels and images of the process at once.

    Args:
        backbone: Detectron2 backbone.
        head: ``(features) -> MapPredictions``, such as :class:`DenseHead`; with the logits of a
            branch if the criterion has one.
        head_in_features: names of the backbone's features for the head, the finest first.
        anchor_generator: Detectron2 anchor generator.
        box2box_transform: Detectron2 box coder.
        assigner: see :mod:`ranking_det.assigners`.
        criterion: see :mod:`ranking_det.criteria`.
        inference: see :class:`DenseInference`, whose defaults are taken if None.
        num_classes: K.
        pixel_mean: per channel, in the order of the input format.
        pixel_std: per channel.
        input_format: "RGB" or "BGR", what the data loader gives.

    Raises:
        ValueError: parts that do not fit together.
    """

    num_classes_key = "MODEL.RETINANET.NUM_CLASSES"  # FCOS has no node in Detectron2

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: Sequence[str],
        anchor_generator: nn.Module,
        box2box_transform: Any,
        assigner: Assigner,
        criterion: CriterionBase,
        num_classes: int,
        inference: DenseInference | None = None,
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
        self.inference = inference or DenseInference()
        self.num_classes = num_classes
        self.input_format = input_format
        shapes = backbone.output_shape()
        self.strides = [shapes[name].stride for name in self.head_in_features]
        parts = assigner, criterion, head, anchor_generator, box2box_transform
        check_dense_parts(*parts, self.strides, num_classes)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Translate a yaml config; see :func:`ranking_det.modeling.add_ranking_config`."""
        node = cfg.MODEL.RETINANET
        backbone = build_backbone(cfg)
        shapes = [backbone.output_shape()[name] for name in node.IN_FEATURES]
        anchors = cls.anchors_from_config(cfg, shapes)
        return {
            "backbone": backbone,
            "head": build_node(
                cfg,
                "HEAD",
                dense_head,
                in_channels=shapes[0].channels,
                num_classes=node.NUM_CLASSES,
                num_anchors=anchors["anchor_generator"].num_anchors[0] if anchors else 1,
                num_convs=node.NUM_CONVS,
                norm=node.NORM,
                prior_prob=node.PRIOR_PROB,
            ),
            "head_in_features": node.IN_FEATURES,
            "inference": build_node(
                cfg,
                "INFERENCE",
                dense_inference,
                score_thresh=node.SCORE_THRESH_TEST,
                topk=node.TOPK_CANDIDATES_TEST,
                nms_thresh=node.NMS_THRESH_TEST,
                max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
            ),
            "assigner": build_node(cfg, "ASSIGNER", assigners),
            "criterion": build_node(cfg, "CRITERION", criteria),
            "num_classes": node.NUM_CLASSES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            **anchors,
        }

    @classmethod
    def anchors_from_config(cls, cfg: CfgNode, shapes: list[ShapeSpec]) -> dict[str, Any]:
        """The anchor generator and box coder for features of these shapes; {} for one's own."""
        return {}

    def augment_inference(
        self, *, min_sizes: Sequence[int], max_size: int, flip: bool
    ) -> nn.Module:
        """Suppress the raw detections of all views together; see the base class."""
        return DenseDetectorWithTTA(self, min_sizes=min_sizes, max_size=max_size, flip=flip)

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: MapPredictions,
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Assign, gather the candidates, and call the criterion."""
        anchors = self.make_anchors(features)
        logits, outputs, assignment = self.assign_all(images, anchors, predictions, gt_instances)
        maps = predictions.branch
        branch = None if maps is None else flatten_levels(maps, 1).squeeze(1)
        candidates = self.gather(anchors, gt_instances, assignment, logits, outputs, branch)
        output = self.criterion(candidates)
        log_metrics(output.metrics)
        return output.losses

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: MapPredictions
    ) -> list[Instances]:
        """Detections of every image, in its input coordinates."""
        proposed = zip(self._propose(features, predictions), images.image_sizes, strict=True)
        return [self.inference.suppress(raw, size) for raw, size in proposed]

    def find_positives(self, batched_inputs: Sequence[dict[str, Any]]) -> list[Positives]:
        """See :class:`DetectorInterface`."""
        images = self.preprocess_image(batched_inputs)
        objects = [inputs["instances"].to(self.device) for inputs in batched_inputs]
        return self.pick_positives(self.backbone, self.head, self.head_in_features, images, objects)

    @torch.no_grad()
    def propose(self, batched_inputs: list[dict[str, Any]]) -> list[RawDetections]:
        """Every image's detections before duplicates are suppressed, in its input coordinates."""
        images = self.preprocess_image(batched_inputs)
        pyramid = self.backbone(images.tensor)
        features = [pyramid[name] for name in self.head_in_features]
        return self._propose(features, self.head(features))

    def _propose(self, features: list[Tensor], predictions: MapPredictions) -> list[RawDetections]:
        anchors = self.make_anchors(features)
        logits = [flatten_level(level, self.num_classes) for level in predictions.logits]
        outputs = [flatten_level(level, 4) for level in predictions.outputs]
        branch = [flatten_level(level, 1).squeeze(2) for level in predictions.branch or []]
        return [
            self.inference.propose(
                [level[i] for level in logits],
                [level[i] for level in outputs],
                anchors,
                self.decode,
                [level[i] for level in branch] or None,
            )
            for i in range(len(logits[0]))
        ]
