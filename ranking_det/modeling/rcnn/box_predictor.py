"""The last layers of a box head without background class.

Shapes: N images, R proposals of all images, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional

from ranking_det.modeling.dense.head import prior_logit
from ranking_det.modeling.score_watch import count_boxes, count_detections

__all__ = ["RankingBoxPredictor"]

THRESHOLD = (
    "model.roi_heads.box_predictor.test_score_thresh (of a cascade that of the last of "
    "box_predictors; yaml: MODEL.ROI_HEADS.SCORE_THRESH_TEST)"
)


class RankingBoxPredictor(FastRCNNOutputLayers):
    """K class logits and the box outputs of each proposal; Detectron2's inference on the scores.

    A proposal is background where all its scores are low: there is no logit for it, and the losses
    are those of the heads' criterion.

    Args:
        input_shape: of the box head's features.
        box2box_transform: Detectron2 box coder.
        num_classes: K.
        test_score_thresh: detections of at most this score are dropped. The scores of a ranking
            loss have no scale of their own: 0 is the safe value for short trainings, .4 the one of
            Rank & Sort Loss on COCO and .6 on LVIS.
        test_nms_thresh: IoU above which the lower-scored detection of a class is dropped.
        test_topk_per_image: detections kept per image.
        cls_agnostic_bbox_reg: one box per proposal, and not one for each class.
        prior_prob: the score of every class at the start, in (0, 1): .5 in Rank & Sort Loss, .01 in
            aLRP Loss.
        softmax: whether the scores are the softmax of the logits and a background's of 0, for
            :class:`ranking_det.criteria.CrossEntropy`, and not their sigmoids.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        box2box_transform: Any,
        num_classes: int,
        test_score_thresh: float = 0.0,
        test_nms_thresh: float = 0.5,
        test_topk_per_image: int = 100,
        cls_agnostic_bbox_reg: bool = False,
        prior_prob: float = 0.5,
        softmax: bool = False,
    ) -> None:
        super().__init__(
            input_shape,
            box2box_transform=box2box_transform,
            num_classes=num_classes,
            test_score_thresh=test_score_thresh,
            test_nms_thresh=test_nms_thresh,
            test_topk_per_image=test_topk_per_image,
            cls_agnostic_bbox_reg=cls_agnostic_bbox_reg,
        )
        self.num_classes = num_classes
        self.softmax = softmax
        self.cls_score = nn.Linear(self.cls_score.in_features, num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.constant_(self.cls_score.bias, prior_logit(prior_prob))

    def outputs_of(self, outputs: Tensor, rows: Tensor, classes: Tensor) -> Tensor:
        """The box outputs of some proposals for one class each.

        Args:
            outputs: (R, 4) or (R, 4 K), of all proposals.
            rows: (n,) int64.
            classes: (n,) int64 in 0..K-1.

        Returns:
            (n, 4) float32, with gradient.
        """
        own = outputs[rows].float()
        if own.shape[1] == 4:
            return own
        place = torch.arange(len(rows), device=rows.device)
        return own.view(len(rows), self.num_classes, 4)[place, classes]

    def losses(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        """Not here: the heads' criterion has them."""
        raise NotImplementedError("the losses of a RankingBoxPredictor are those of a criterion")

    def predict_probs(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[Tensor, ...]:
        """Per image (R_i, K + 1): the scores of the classes, and of the background (0 if none)."""
        logits = predictions[0].float()
        if self.softmax:
            scores = functional.pad(logits, (0, 1)).softmax(dim=1)
        else:
            scores = functional.pad(logits.sigmoid(), (0, 1))
        return scores.split([len(own) for own in proposals])

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Detections, as Detectron2 makes them of scores and boxes."""
        boxes = self.predict_boxes(predictions, proposals)
        scores = self.predict_probs(predictions, proposals)
        for own in scores:
            count_boxes(own[:, :-1], self.test_score_thresh, THRESHOLD)
        found, kept = fast_rcnn_inference(
            boxes,
            scores,
            [own.image_size for own in proposals],
            self.test_score_thresh,
            self.test_nms_thresh,
            self.test_topk_per_image,
        )
        for instances in found:
            count_detections(len(instances))
        return found, kept
