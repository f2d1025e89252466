"""What Detectron2's GeneralizedRCNN answers to the engine, which knows no architecture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.modeling.meta_arch import GeneralizedRCNN
from torch import nn

from ranking_det.modeling.anchor_matching import as_one_class
from ranking_det.modeling.augmented_inference import make_tta_mapper
from ranking_det.modeling.interface import DetectorAdapter, Positives, register_adapter
from ranking_det.modeling.rcnn.rpn import RankingRPN


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
        return [Positives(*own, False, "the RPN's anchors for it", "propose") for own in picked]

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
        augmented = _RCNNWithTTA(self._describe(), self.model, mapper)
        # Detectron2's evaluation leaves the model in the mode in which it found this one.
        augmented.training = self.model.training
        return augmented

    def _describe(self) -> CfgNode:
        """What Detectron2's augmentation reads of a yaml config, of a model that may have none."""
        heads = self.model.roi_heads
        predictor = heads.box_predictor
        if isinstance(predictor, nn.ModuleList):
            predictor = predictor[-1]  # a cascade's detections are the last stage's
        return CfgNode(
            {
                "MODEL": {
                    "MASK_ON": self.learns_masks,
                    "KEYPOINT_ON": bool(getattr(heads, "keypoint_on", False)),
                    "LOAD_PROPOSALS": False,
                    "ROI_HEADS": {
                        "NUM_CLASSES": heads.num_classes,
                        "NMS_THRESH_TEST": predictor.test_nms_thresh,
                    },
                },
                "TEST": {"DETECTIONS_PER_IMAGE": predictor.test_topk_per_image},
            }
        )


class _RCNNWithTTA(GeneralizedRCNNWithTTA):
    """Detectron2's, which leaves it to the caller that no gradient is kept."""

    __call__ = torch.no_grad()(GeneralizedRCNNWithTTA.__call__)


register_adapter(GeneralizedRCNN, RCNNAdapter)
