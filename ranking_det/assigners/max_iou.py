"""Assignment by the IoU of the anchor with the object."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ranking_det.assigners.assignment import Assigner, Predictions, unmatched
from ranking_det.assigners.blocks import blocks
from ranking_det.boxes import box_iou
from ranking_det.labels import IGNORE


class MaxIoU(Assigner):
    """Each anchor goes to the object it overlaps most, if it overlaps enough.

    The rule of Faster R-CNN and RetinaNet, as Detectron2's Matcher has it; of several objects of
    the same IoU the first wins.

    Unlike Detectron2's, an object that overlaps no anchor at all makes no anchor a low-quality
    match; there, all anchors of IoU 0 would become its positives.

    Args:
        positive_iou: an anchor of at least this IoU with an object is positive.
        negative_iou: an anchor of less than this with every object is background; one between the
            two is ignored.
        low_quality: whether the anchors that overlap an object most are positive however small
            their IoU. They go to the object *they* overlap most, which may leave another without.
        low_quality_iou: the least IoU of such an anchor; .3 in the RPN of the ranking papers.
    """

    needs_grid = False

    def __init__(
        self,
        positive_iou: float = 0.5,
        negative_iou: float = 0.4,
        low_quality: bool = True,
        low_quality_iou: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= negative_iou <= positive_iou <= 1:
            raise ValueError(
                "0 <= negative_iou <= positive_iou <= 1 must hold, got "
                f"negative_iou {negative_iou} and positive_iou {positive_iou}"
            )
        if not 0 <= low_quality_iou <= 1:
            raise ValueError(f"low_quality_iou: expected a number in [0, 1], got {low_quality_iou}")
        self.positive_iou = positive_iou
        self.negative_iou = negative_iou
        self.low_quality = low_quality
        self.low_quality_iou = low_quality_iou

    def match(
        self,
        anchors: Sequence[Tensor],
        gt_boxes: Tensor,
        gt_classes: Tensor,
        valid: Tensor,
        predictions: Predictions | None,
    ) -> Tensor:
        """See :meth:`Assigner.match`."""
        matched = unmatched(valid)
        if not len(gt_boxes) or not len(valid):
            return matched
        boxes = torch.cat(list(anchors))
        best = torch.full_like(boxes[:, 0], -1.0)
        index = torch.zeros_like(matched)
        low_quality = torch.zeros_like(valid)
        for rows in blocks(len(gt_boxes), len(boxes)):
            iou = box_iou(gt_boxes[rows, None], boxes).masked_fill_(~valid, -1.0)
            if self.low_quality:
                highest = iou.amax(dim=1, keepdim=True)
                enough = (highest > 0) & (highest >= self.low_quality_iou)
                low_quality |= ((iou == highest) & enough).any(dim=0)
            value, row = iou.max(dim=0)
            better = value > best
            best = torch.where(better, value, best)
            index = torch.where(better, row + rows.start, index)
        matched[best >= self.negative_iou] = IGNORE
        return torch.where((best >= self.positive_iou) | low_quality, index, matched)
