"""From dense predictions to the detections of one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import Tensor


def select_detections(
    logits: Sequence[Tensor],
    outputs: Sequence[Tensor],
    anchors: Sequence[Tensor],
    decode: Callable[[Tensor, Tensor], Tensor],
    image_size: tuple[int, int],
    *,
    score_thresh: float,
    topk_candidates: int,
    nms_thresh: float,
    max_detections: int,
) -> Instances:
    """Threshold, keep the best of each level, decode and suppress duplicates.

    Args:
        logits: per level (R_l, K).
        outputs: per level (R_l, 4) raw box outputs.
        anchors: per level (R_l, 4) XYXY.
        decode: (outputs (n, 4), anchors (n, 4)) -> boxes (n, 4) XYXY.
        image_size: (height, width) of the input image in pixels.
        score_thresh: detections of at most this score are dropped.
        topk_candidates: (anchor, class) pairs kept per level, those of highest score.
        nms_thresh: IoU above which the lower-scored of two boxes of a class is dropped.
        max_detections: detections kept per image.

    Returns:
        Instances with ``pred_boxes``, ``scores`` and ``pred_classes``, by descending score.
    """
    boxes, scores, classes = [], [], []
    for level_logits, level_outputs, level_anchors in zip(logits, outputs, anchors, strict=True):
        # In float32: float16 and bfloat16 sigmoids tie thousands of high scores.
        score = level_logits.float().sigmoid().flatten()
        top, index = score.topk(min(topk_candidates, len(score)))
        index = index[top > score_thresh]
        rows = torch.div(index, level_logits.shape[1], rounding_mode="floor")
        boxes.append(decode(level_outputs[rows].float(), level_anchors[rows]))
        scores.append(score[index])
        classes.append(index % level_logits.shape[1])
    all_boxes, all_scores, all_classes = torch.cat(boxes), torch.cat(scores), torch.cat(classes)
    keep = batched_nms(all_boxes, all_scores, all_classes, nms_thresh)[:max_detections]
    return Instances(
        image_size,
        pred_boxes=Boxes(all_boxes[keep]),
        scores=all_scores[keep],
        pred_classes=all_classes[keep],
    )
