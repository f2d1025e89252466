"""Adapter of Detectron2's GeneralizedRCNN to the detector interface of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import get_cfg
from detectron2.layers import ROIAlign
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Instances
from torch import Tensor, nn

from ranking_det.checks import check_at_least, check_integer, check_that
from ranking_det.modeling.interface import DetectorAdapter, Positives, register_adapter
from ranking_det.modeling.rcnn.box_predictor import RankingBoxPredictor
from ranking_det.modeling.rcnn.roi_heads import StagedROIHeads
from ranking_det.modeling.rcnn.rpn import RankingRPN, as_one_class
from ranking_det.modeling.tta import make_tta_mapper


class RCNNAdapter(DetectorAdapter):
    """Detector interface of an R-CNN with any heads and any region proposal network (RPN).

    Args:
        model: the R-CNN.
    """

    num_classes_key = "MODEL.ROI_HEADS.NUM_CLASSES"
    masks_key = "MODEL.MASK_ON"

    model: GeneralizedRCNN

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__(model)
        # Some of Detectron2's heads lack these attributes.
        self.num_classes = getattr(model.roi_heads, "num_classes", None)
        self.learns_masks = bool(getattr(model.roi_heads, "mask_on", False))
        rpn = model.proposal_generator
        self.positives_need_images = not isinstance(rpn, RankingRPN) or rpn.positives_need_images

    def find_positives(self, batched_inputs: Sequence[dict[str, Any]]) -> list[Positives] | None:
        """Find the positive anchors of the RPN; None for Detectron2's own RPN.

        Args:
            batched_inputs: as for training, with ``instances``.

        Returns:
            The positives of each image, or None.
        """
        model, rpn = self.model, self.model.proposal_generator
        if not isinstance(rpn, RankingRPN):
            return None
        images = model.preprocess_image(batched_inputs)
        objects = as_one_class([inputs["instances"].to(model.device) for inputs in batched_inputs])
        arguments = model.backbone, rpn.rpn_head, rpn.in_features, images, objects
        phrases = {"description": "the RPN's anchors matched to it", "task": "propose"}
        return [positives._replace(**phrases) for positives in rpn.pick_positives(*arguments)]

    def check_parts(self) -> None:
        """Check that the heads use features of the backbone, and that RoIs can be pooled.

        Raises:
            ValueError: the backbone lacks a feature, or a stride, a pooling scale or a pooling size
                is not above 0.
        """
        rpn, heads = self.model.proposal_generator, self.model.roi_heads
        used_features = {}
        if isinstance(rpn, (RPN, RankingRPN)):
            used_features["proposal_generator.in_features"] = rpn.in_features
            for stride in rpn.anchor_generator.strides:
                check_integer("proposal_generator.anchor_generator.strides", stride, 1)
        if isinstance(heads, (StandardROIHeads, StagedROIHeads)):
            used_features["roi_heads.box_in_features"] = heads.box_in_features
            used_features["roi_heads.mask_in_features"] = (
                heads.mask_in_features if heads.mask_on else []
            )
        feature_names = list(self.model.backbone.output_shape())
        for key, names in used_features.items():
            is_known = all(name in feature_names for name in names)
            check_that(is_known, key, f"some of {', '.join(feature_names)}", list(names))
        for name, layer in self.model.named_modules():
            if isinstance(layer, ROIAlign):
                pooler = name.partition(".level_poolers")[0]
                check_at_least(f"{pooler}.scales", layer.spatial_scale, 0, strictly=True)
                for size in layer.output_size:
                    check_integer(f"{pooler}.output_size", size, 1)

    def augment_inference(
        self, *, min_sizes: Sequence[int], max_size: int, flip: bool
    ) -> nn.Module:
        """Wrap an R-CNN with a proposal generator in Detectron2's test-time augmentation.

        The final detections of all views are suppressed together. Each mask is the mean of the
        masks in all views.

        Args:
            min_sizes: lengths of the shorter side in pixels, each >= 1; at least one.
            max_size: limit of the longer side in pixels, >= 1.
            flip: whether each size is also detected in a mirror image.

        Returns:
            A module with the inputs and outputs of a Detectron2 model at inference.

        Raises:
            ValueError: the R-CNN has no proposal generator, or a size is not valid.
        """
        if self.model.proposal_generator is None:
            raise ValueError(
                "model: expected an R-CNN with a proposal generator, got one for precomputed "
                "proposals"
            )
        mapper = make_tta_mapper(min_sizes, max_size, flip)
        # Detectron2's augmentation reads a yaml config, which models of LazyConfigs do not have.
        cfg, heads, predictor = get_cfg(), self.model.roi_heads, _last_predictor(self.model)
        cfg.MODEL.MASK_ON = self.learns_masks
        cfg.MODEL.KEYPOINT_ON = bool(getattr(heads, "keypoint_on", False))
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = heads.num_classes
        cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = predictor.test_nms_thresh
        cfg.TEST.DETECTIONS_PER_IMAGE = predictor.test_topk_per_image
        augmented = _RCNNWithTTA(cfg, self.model, mapper)
        # Detectron2's evaluation restores this module's mode, and with it the model's.
        augmented.training = self.model.training
        return augmented


def _last_predictor(model: GeneralizedRCNN) -> Any:
    """Return the box predictor of the last stage, which makes the detections."""
    predictor = model.roi_heads.box_predictor
    return predictor[-1] if isinstance(predictor, nn.ModuleList) else predictor


class _RCNNWithTTA(GeneralizedRCNNWithTTA):
    """Detectron2's test-time augmentation, without gradients, with the predictor's suppression."""

    __call__ = torch.no_grad()(GeneralizedRCNNWithTTA.__call__)

    def _merge_detections(
        self, all_boxes: Tensor, all_scores: Any, all_classes: Any, shape_hw: tuple[int, int]
    ) -> Instances:
        """Suppress duplicates among the detections of all views, as the box predictor does."""
        predictor = _last_predictor(self.model)
        if not isinstance(predictor, RankingBoxPredictor):
            return super()._merge_detections(all_boxes, all_scores, all_classes, shape_hw)
        scores = torch.zeros(len(all_boxes), predictor.num_classes, device=all_boxes.device)
        for row, label, score in zip(scores, all_classes, all_scores, strict=True):
            row[label] = score
        return predictor.detect(all_boxes, scores, shape_hw, 1e-8)


register_adapter(GeneralizedRCNN, RCNNAdapter)
