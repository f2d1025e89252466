"""Box predictor of an R-CNN without a background class: class logits, boxes, detections.

Shapes: R proposals of all images, R_i of image i, K classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional

from ranking_det.checks import check_at_least, check_that
from ranking_det.layers import HardNMS, ScoreVoting, SoftNMS
from ranking_det.modeling.initialization import prior_logit
from ranking_det.modeling.postprocessing import RawDetections, postprocess
from ranking_det.modeling.threshold_watch import THRESHOLD_KEYS, count_boxes, count_detections

# The names that yaml configs may use under MODEL.BOX_PREDICTOR.
__all__ = ["HardNMS", "RankingBoxPredictor", "ScoreVoting", "SoftNMS"]

THRESHOLD = (
    f"{THRESHOLD_KEYS[1]} (in a cascade, of the last of "
    "box_predictors; yaml: MODEL.ROI_HEADS.SCORE_THRESH_TEST)"
)


class BoxPredictions(NamedTuple):
    """Predictions of a box head for each proposal."""

    logits: Tensor
    """(R, K) raw class scores."""
    outputs: Tensor
    """(R, 4) or (R, 4 K) raw box outputs, class-agnostic or of each class."""


class RankingBoxPredictor(nn.Module):
    """Box predictor: K class logits and box outputs for each proposal, and detections from them.

    There is no logit for background: a proposal is background if all its scores are low. The layers
    have the names of Detectron2's FastRCNNOutputLayers.

    Args:
        input_shape: the shape of the box head's features.
        box2box_transform: Detectron2 box coder.
        num_classes: K, >= 1.
        test_score_thresh: score threshold at inference, in [0, 1]; detections of at most this score
            are dropped. The scores of ranking losses have no fixed scale: 0 is the safe value for
            short training runs. Rank & Sort Loss uses .4 on COCO and .6 on LVIS.
        test_nms_thresh: IoU in [0, 1] above which NMS drops the lower-scored detection of a class.
        test_topk_per_image: detections kept per image; below 0 for all.
        cls_agnostic_bbox_reg: predict one box per proposal instead of one for each class.
        prior_prob: initial score of every class, in (0, 1): .5 in Rank & Sort Loss, .01 in aLRP
            Loss.
        softmax: whether the scores are the softmax of the logits and a background logit of 0, for
            :class:`ranking_det.criteria.CrossEntropy`, instead of sigmoids.
        suppression: replaces NMS at ``test_nms_thresh``; see
            :mod:`ranking_det.layers.suppression`.

    Raises:
        ValueError: ``prior_prob`` or ``test_nms_thresh`` is out of range.
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
        check_at_least("test_nms_thresh", test_nms_thresh, 0.0)
        check_that(test_nms_thresh <= 1, "test_nms_thresh", "at most 1", test_nms_thresh)
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
        """Predict class logits and box outputs.

        Args:
            features: (R, ...), the features of the proposals.

        Returns:
            The predictions for the R proposals.
        """
        features = features.flatten(1)
        return BoxPredictions(self.cls_score(features), self.bbox_pred(features))

    def outputs_of(self, outputs: Tensor, rows: Tensor, classes: Tensor) -> Tensor:
        """Select the box outputs of some proposals for one class each.

        Args:
            outputs: (R, 4) or (R, 4 K), the box outputs of all proposals.
            rows: (n,) int64 in [0, R), the proposals.
            classes: (n,) int64 in [0, K).

        Returns:
            (n, 4) float32, with gradient.
        """
        selected = outputs[rows].float()
        if selected.shape[1] == 4:
            return selected
        position = torch.arange(len(rows), device=rows.device)
        return selected.view(len(rows), self.num_classes, 4)[position, classes]

    def predict_boxes(
        self, predictions: BoxPredictions, proposals: list[Instances]
    ) -> tuple[Tensor, ...]:
        """Decode the predicted boxes of each image.

        Args:
            predictions: the predictions for the R proposals.
            proposals: one Instances per image, with ``proposal_boxes``.

        Returns:
            One tensor per image, (R_i, 4) or (R_i, 4 K), XYXY in pixels.
        """
        anchors = torch.cat([image.proposal_boxes.tensor for image in proposals])
        boxes: Tensor = self.box2box_transform.apply_deltas(predictions.outputs, anchors)
        return boxes.split([len(image) for image in proposals])

    def predict_probs(
        self, predictions: BoxPredictions, proposals: list[Instances]
    ) -> tuple[Tensor, ...]:
        """Compute the class scores of each image, by sigmoid or softmax.

        Args:
            predictions: the predictions for the R proposals.
            proposals: one Instances per image, for the number of proposals.

        Returns:
            One tensor (R_i, K + 1) per image, float32 in [0, 1]. The last column is the background
            score, which is 0 with sigmoids.
        """
        logits = predictions.logits.float()
        if self.softmax:
            scores = functional.pad(logits, (0, 1)).softmax(dim=1)
        else:
            scores = functional.pad(logits.sigmoid(), (0, 1))
        return scores.split([len(image) for image in proposals])

    def inference(self, predictions: BoxPredictions, proposals: list[Instances]) -> list[Instances]:
        """Make the detections of each image: score threshold, NMS, top-k.

        Args:
            predictions: the predictions for the R proposals.
            proposals: one Instances per image, with ``proposal_boxes``.

        Returns:
            One Instances per image, with ``pred_boxes``, ``scores`` and ``pred_classes``, by
            descending score.
        """
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
        """Make the detections of one image; with NMS they are the same as Detectron2's.

        Args:
            boxes: (R_i, 4) or (R_i, 4 K) XYXY in pixels.
            scores: (R_i, K) in [0, 1].
            image_size: (height, width) in pixels; boxes are clipped to it.
            score_thresh: drop pairs of proposal and class with at most this score.

        Returns:
            Instances with ``pred_boxes``, ``scores`` and ``pred_classes``, by descending score.
        """
        finite = boxes.isfinite().all(dim=1) & scores.isfinite().all(dim=1)
        boxes, scores = boxes[finite], scores[finite]
        rows, classes = (scores > score_thresh).nonzero(as_tuple=True)
        by_class = boxes.view(len(boxes), boxes.shape[1] // 4, 4)
        columns = classes if by_class.shape[1] > 1 else torch.zeros_like(classes)
        raw = RawDetections(by_class[rows, columns], scores[rows, classes], classes)
        limit = len(rows) if self.test_topk_per_image < 0 else self.test_topk_per_image
        best = postprocess(raw, image_size, self.suppression, limit, min_side=None)
        return best.to_instances(image_size)
