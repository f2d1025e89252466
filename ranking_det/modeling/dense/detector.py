"""Dense detectors with any assigner, criterion and inference; the base of RetinaNet and FCOS.

Shapes in this folder:

    N: images of the batch
    A: anchors per cell; a point of FCOS is one anchor
    R_l: anchors of level l of one image, H_l W_l A
    R: rows, the anchors of all images and levels; image-major, then level, cell and anchor
    K: classes of objects; there is no class for background
    P: positives, the rows whose label is a class
    G: ground-truth boxes of all images

Names:

    logits: (R, K) raw class scores; the score of a class is sigmoid(logit)
    outputs: (R, 4) raw box outputs, which the box coder decodes (Detectron2's "deltas")
    branch: (R,) logits of an IoU or centerness branch
    anchors: one tensor (R_l, 4) per level, XYXY in pixels, the same for every image
    assignment: labels (R,), a class in [0, K), BACKGROUND or IGNORE; and gt_index (R,), the row of
        the matched box among the G, -1 if there is none
    candidates: all that the criterion needs of the R rows and P positives
    raw detections: boxes, scores and classes of an image before NMS
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
from ranking_det.modeling.input_checks import check_objects
from ranking_det.modeling.interface import DetectorInterface, Positives
from ranking_det.modeling.part_checks import check_dense_parts
from ranking_det.modeling.postprocessing import RawDetections
from ranking_det.modeling.step_metrics import log_metrics
from ranking_det.modeling.tta import DenseDetectorWithTTA
from ranking_det.modeling.yaml_keys import build_node


class RankingDenseDetector(AnchorCandidates, DetectorInterface, DenseDetector):
    """Dense (one-stage) detector with any assigner, any criterion and any inference.

    The criterion gets the raw logits of all classes, levels and images of the process in one call.

    Args:
        backbone: Detectron2 backbone.
        head: ``(features) -> MapPredictions``, such as :class:`DenseHead`; with a branch if the
            criterion trains one.
        head_in_features: names of the backbone's features for the head, the finest first.
        anchor_generator: Detectron2 anchor generator.
        box2box_transform: Detectron2 box coder.
        assigner: see :mod:`ranking_det.assigners`.
        criterion: see :mod:`ranking_det.criteria`.
        num_classes: K, >= 1.
        inference: post-processing; None for :class:`DenseInference` with its defaults.
        pixel_mean: mean of the pixels per channel, in the order of the input format, in [0, 255].
        pixel_std: standard deviation of the pixels per channel, > 0.
        input_format: order of the channels that the data loader gives, "RGB" or "BGR".

    Raises:
        ValueError: the parts do not fit together.
    """

    num_classes_key = "MODEL.RETINANET.NUM_CLASSES"  # Detectron2 has no config node for FCOS

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
        # Another module may compute its scores in any way.
        is_known = isinstance(self.inference, DenseInference)
        softmax = self.inference.softmax if is_known else criterion.softmax
        check_dense_parts(*parts, self.strides, num_classes, softmax)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Translate a yaml config to the constructor's arguments.

        :func:`ranking_det.modeling.add_ranking_config` describes the keys.

        Args:
            cfg: a Detectron2 config with the project's keys.

        Returns:
            The arguments by name.

        Raises:
            UserError: a component cannot be built.
        """
        node = cfg.MODEL.RETINANET
        backbone = build_backbone(cfg)
        shapes = [backbone.output_shape()[name] for name in node.IN_FEATURES]
        anchors = cls.anchors_from_config(cfg, shapes)
        num_anchors = anchors["anchor_generator"].num_anchors[0] if anchors else 1
        return {
            "backbone": backbone,
            "head": cls.head_from_config(cfg, shapes[0].channels, num_anchors),
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
        """Build the anchor generator and the box coder from a yaml config.

        Args:
            cfg: a Detectron2 config.
            shapes: the shapes of the features for the head.

        Returns:
            ``anchor_generator`` and ``box2box_transform``; empty if the constructor makes them.
        """
        return {}

    @classmethod
    def head_from_config(cls, cfg: CfgNode, in_channels: int, num_anchors: int) -> nn.Module:
        """Build the head from a yaml config.

        Args:
            cfg: a Detectron2 config.
            in_channels: channels of the features.
            num_anchors: anchors per cell.

        Returns:
            The head.

        Raises:
            UserError: the head cannot be built.
        """
        node = cfg.MODEL.RETINANET
        head: nn.Module = build_node(
            cfg,
            "HEAD",
            dense_head,
            in_channels=in_channels,
            num_classes=node.NUM_CLASSES,
            num_anchors=num_anchors,
            num_convs=node.NUM_CONVS,
            norm=node.NORM,
            prior_prob=node.PRIOR_PROB,
        )
        return head

    def augment_inference(
        self, *, min_sizes: Sequence[int], max_size: int, flip: bool
    ) -> nn.Module:
        """Wrap the model in test-time augmentation; see :class:`DetectorInterface`.

        The raw detections of all views are suppressed together.
        """
        return DenseDetectorWithTTA(self, min_sizes=min_sizes, max_size=max_size, flip=flip)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Compute the losses in training; detect objects at inference.

        Args:
            batched_inputs: one dict per image, in training with ``instances``.

        Returns:
            In training, the losses by name; otherwise one dict per image with ``instances``.

        Raises:
            UserError: the class of an object is out of range.
        """
        if self.training:
            check_objects(batched_inputs, self.num_classes)
        return super().forward(batched_inputs)

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: MapPredictions,
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Compute the losses: assign anchors to objects, gather candidates, call the criterion.

        Args:
            images: the N images.
            features: one tensor (N, C, H_l, W_l) per level.
            predictions: the head's predictions, per level.
            gt_instances: one Instances per image, with ``gt_boxes`` and ``gt_classes``.

        Returns:
            The losses by name, ``loss_...``, which the trainer adds up.
        """
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
        """Detect: decode boxes, select by score, apply NMS.

        Args:
            images: the N images.
            features: one tensor (N, C, H_l, W_l) per level.
            predictions: the head's predictions, per level.

        Returns:
            One Instances per image, with ``pred_boxes``, ``scores`` and ``pred_classes``, in input
            coordinates.
        """
        proposed = zip(self._propose(features, predictions), images.image_sizes, strict=True)
        return [self.inference.suppress(raw, size) for raw, size in proposed]

    def find_positives(self, batched_inputs: Sequence[dict[str, Any]]) -> list[Positives]:
        """Find the positive anchors of each image; see :class:`DetectorInterface`."""
        images = self.preprocess_image(batched_inputs)
        objects = [inputs["instances"].to(self.device) for inputs in batched_inputs]
        return self.pick_positives(self.backbone, self.head, self.head_in_features, images, objects)

    @torch.no_grad()
    def propose(self, batched_inputs: list[dict[str, Any]]) -> list[RawDetections]:
        """Compute the raw detections of each image, before NMS.

        Args:
            batched_inputs: as for a Detectron2 model.

        Returns:
            The raw detections of each image, in input coordinates.
        """
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
