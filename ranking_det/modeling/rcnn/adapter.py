"""What Detectron2's GeneralizedRCNN answers to the engine, which knows no architecture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import get_cfg
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import Instances
from torch import Tensor, nn

from ranking_det.modeling.anchor_candidates import as_one_class
from ranking_det.modeling.interface import DetectorAdapter, Positives, register_adapter
from ranking_det.modeling.rcnn.box_predictor import RankingBoxPredictor
from ranking_det.modeling.rcnn.rpn import RankingRPN
from ranking_det.modeling.tta import make_tta_mapper


class RCNNAdapter(DetectorAdapter):
    """Answers for an R-CNN with any heads and any region proposal network.

    Args:
        model: the R-CNN.
    """

    num_classes_key = "MODEL.ROI_HEADS.NUM_CLASSES"
    masks_key = "MODEL.MASK_ON"

    model: GeneralizedRCNN

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__(model)
        # Detectron2's heads need not have all of these.
        self.num_classes = getattr(model.roi_heads, "num_classes", None)
        self.learns_masks = bool(getattr(model.roi_heads, "mask_on", False))

    def find_positives(self, batched_inputs: Sequence[dict[str, Any]]) -> list[Positives] | None:
        """What the assigner of the region proposal network picks; None of Detectron2's own."""
        model, rpn = self.model, self.model.proposal_generator
        if not isinstance(rpn, RankingRPN):
            return None
        images = model.preprocess_image(batched_inputs)
        objects = as_one_class([inputs["instances"].to(model.device) for inputs in batched_inputs])
        picked = rpn.pick_positives(model.backbone, rpn.rpn_head, rpn.in_features, images, objects)
        words = {"description": "the RPN's anchors for it", "task": "propose"}
        return [positives._replace(**words) for positives in picked]

    def augment_inference(
        self, *, min_sizes: Sequence[int], max_size: int, flip: bool
    ) -> nn.Module:
        """Detectron2's augmentation, on any R-CNN that proposes.

        The detections, as they are after the R-CNN's own suppression, are suppressed together and
        then get the mean of their masks in all views.
        """
        if self.model.proposal_generator is None:
            raise ValueError("model: an R-CNN on given proposals has none for augmented images")
        mapper = make_tta_mapper(min_sizes, max_size, flip)
        # What Detectron2's augmentation reads of a yaml config, of a model that may have none.
        cfg, heads, predictor = get_cfg(), self.model.roi_heads, _last_predictor(self.model)
        cfg.MODEL.MASK_ON = self.learns_masks
        cfg.MODEL.KEYPOINT_ON = bool(getattr(heads, "keypoint_on", False))
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = heads.num_classes
        cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = predictor.test_nms_thresh
        cfg.TEST.DETECTIONS_PER_IMAGE = predictor.test_topk_per_image
        augmented = _RCNNWithTTA(cfg, self.model, mapper)
        # Detectron2's evaluation leaves the model in the mode in which it found this one.
        augmented.training = self.model.training
        return augmented


def _last_predictor(model: GeneralizedRCNN) -> Any:
    """The box predictor whose detections the R-CNN gives: of a cascade the last stage's."""
    predictor = model.roi_heads.box_predictor
    return predictor[-1] if isinstance(predictor, nn.ModuleList) else predictor


class _RCNNWithTTA(GeneralizedRCNNWithTTA):
    """Detectron2's, which leaves it to the caller that no gradient is kept."""

    __call__ = torch.no_grad()(GeneralizedRCNNWithTTA.__call__)

    def _merge_detections(
        self, all_boxes: Tensor, all_scores: Any, all_classes: Any, shape_hw: tuple[int, int]
    ) -> Instances:
        """Suppress the detections of all views together, as the predictor suppresses."""
        predictor = _last_predictor(self.model)
        if not isinstance(predictor, RankingBoxPredictor):
            return super()._merge_detections(all_boxes, all_scores, all_classes, shape_hw)
        scores = torch.zeros(len(all_boxes), predictor.num_classes, device=all_boxes.device)
        for row, label, score in zip(scores, all_classes, all_scores, strict=True):
            row[label] = score
        return predictor.detect(all_boxes, scores, shape_hw, 1e-8)


register_adapter(GeneralizedRCNN, RCNNAdapter)
