"""The last layers of a box head without background class.

Shapes: N images, R proposals of all images, K classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional

from ranking_det.layers import HardNMS, ScoreVoting, SoftNMS
from ranking_det.modeling.initialization import prior_logit
from ranking_det.modeling.raw_detections import RawDetections, keep_best
from ranking_det.modeling.threshold_watch import count_boxes, count_detections

# What a yaml config can name under MODEL.BOX_PREDICTOR.
__all__ = ["HardNMS", "RankingBoxPredictor", "ScoreVoting", "SoftNMS"]

THRESHOLD = (
    "model.roi_heads.box_predictor.test_score_thresh (of a cascade that of the last of "
    "box_predictors; yaml: MODEL.ROI_HEADS.SCORE_THRESH_TEST)"
)


class BoxPredictions(NamedTuple):
    """What a box head predicts of each proposal."""

    logits: Tensor
    """(R, K), raw class scores."""
    outputs: Tensor
    """(R, 4) or (R, 4 K), raw box outputs, of all classes together or of each."""


class RankingBoxPredictor(nn.Module):
    """K class logits and the box outputs of each proposal, and the detections that they make.

    A proposal is background where all its scores are low: there is no logit for it. The layers
    have the names of Detectron2's FastRCNNOutputLayers.

    Args:
        input_shape: of the box head's features.
        box2box_transform: Detectron2 box coder.
        num_classes: K.
        test_score_thresh: detections of at most this score are dropped. The scores of a ranking
            loss have no scale of their own: 0 is the safe value for short trainings, .4 the one of
            Rank & Sort Loss on COCO and .6 on LVIS.
        test_nms_thresh: IoU above which the lower-scored detection of a class is dropped.
        test_topk_per_image: detections kept per image; below 0 for all.
        cls_agnostic_bbox_reg: one box per proposal, and not one for each class.
        prior_prob: the score of every class at the start, in (0, 1): .5 in Rank & Sort Loss, .01 in
            aLRP Loss.
        softmax: whether the scores are the softmax of the logits and a background's of 0, for
            :class:`ranking_det.criteria.CrossEntropy`, and not their sigmoids.
        suppression: takes the place of NMS at ``test_nms_thresh``; see
            :mod:`ranking_det.layers.suppression`.
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
        suppression: nn.Module | None = None,
    ) -> None:
        super().__init__()
        size = input_shape.channels * (input_shape.width or 1) * (input_shape.height or 1)
        self.cls_score = nn.Linear(size, num_classes)
        self.bbox_pred = nn.Linear(size, 4 if cls_agnostic_bbox_reg else 4 * num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.constant_(self.cls_score.bias, prior_logit(prior_prob))
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.bbox_pred.bias)
        self.box2box_transform = box2box_transform
        self.num_classes = num_classes
        self.test_score_thresh = test_score_thresh
        self.test_nms_thresh = test_nms_thresh
        self.test_topk_per_image = test_topk_per_image
        self.softmax = softmax
        self.suppression = suppression or HardNMS(test_nms_thresh, exact=False)

    def forward(self, features: Tensor) -> BoxPredictions:
        """Predict of the features (R, ...) of the proposals."""
        features = features.flatten(1)
        return BoxPredictions(self.cls_score(features), self.bbox_pred(features))

    def outputs_of(self, outputs: Tensor, rows: Tensor, classes: Tensor) -> Tensor:
        """The box outputs of some proposals for one class each.

        Args:
            outputs: (R, 4) or (R, 4 K), of all proposals.
            rows: (n,) int64.
            classes: (n,) int64 in 0..K-1.

        Returns:
            (n, 4) float32, with gradient.
        """
        chosen = outputs[rows].float()
        if chosen.shape[1] == 4:
            return chosen
        place = torch.arange(len(rows), device=rows.device)
        return chosen.view(len(rows), self.num_classes, 4)[place, classes]

    def predict_boxes(
        self, predictions: BoxPredictions, proposals: list[Instances]
    ) -> tuple[Tensor, ...]:
        """Per image the boxes (R_i, 4) or (R_i, 4 K), XYXY in pixels."""
        anchors = torch.cat([image.proposal_boxes.tensor for image in proposals])
        boxes: Tensor = self.box2box_transform.apply_deltas(predictions.outputs, anchors)
        return boxes.split([len(image) for image in proposals])

    def predict_probs(
        self, predictions: BoxPredictions, proposals: list[Instances]
    ) -> tuple[Tensor, ...]:
        """Per image (R_i, K + 1): the scores of the classes, and of the background (0 if none)."""
        logits = predictions.logits.float()
        if self.softmax:
            scores = functional.pad(logits, (0, 1)).softmax(dim=1)
        else:
            scores = functional.pad(logits.sigmoid(), (0, 1))
        return scores.split([len(image) for image in proposals])

    def inference(self, predictions: BoxPredictions, proposals: list[Instances]) -> list[Instances]:
        """The detections of each image: ``pred_boxes``, ``scores`` and ``pred_classes``."""
        all_boxes = self.predict_boxes(predictions, proposals)
        all_probs = self.predict_probs(predictions, proposals)
        detections, thresh = [], self.test_score_thresh
        for boxes, probs, image in zip(all_boxes, all_probs, proposals, strict=True):
            count_boxes(probs[:, :-1], thresh, THRESHOLD)
            detections.append(self.detect(boxes, probs[:, :-1], image.image_size, thresh))
            count_detections(len(detections[-1]))
        return detections

    def detect(
        self, boxes: Tensor, scores: Tensor, image_size: tuple[int, int], score_thresh: float
    ) -> Instances:
        """The detections of one image, the same as Detectron2's where NMS is.

        Args:
            boxes: (r, 4) or (r, 4 K) XYXY in pixels.
            scores: (r, K).
            image_size: (height, width); boxes are clipped to it.
            score_thresh: a pair of proposal and class of at most this score is dropped.

        Returns:
            Instances by descending score.
        """
        finite = boxes.isfinite().all(dim=1) & scores.isfinite().all(dim=1)
        boxes, scores = boxes[finite], scores[finite]
        rows, classes = (scores > score_thresh).nonzero(as_tuple=True)
        by_class = boxes.view(len(boxes), boxes.shape[1] // 4, 4)
        columns = classes if by_class.shape[1] > 1 else torch.zeros_like(classes)
        raw = RawDetections(by_class[rows, columns], scores[rows, classes], classes)
        limit = len(rows) if self.test_topk_per_image < 0 else self.test_topk_per_image
        best = keep_best(raw, image_size, self.suppression, limit, min_side=None)
        return best.to_instances(image_size)
