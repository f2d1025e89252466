"""Anchor matching by IoU, as in Faster R-CNN and RetinaNet."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ranking_det.assigners.assignment import Assigner, ImageInputs, unmatched
from ranking_det.boxes import box_iou
from ranking_det.checks import check_that
from ranking_det.labels import IGNORE
from ranking_det.row_blocks import blocks

LowQuality = Literal["object", "anchor"]


class MaxIoU(Assigner):
    """Assign each anchor to the object with the highest IoU, if the IoU is above a threshold.

    The rule of Faster R-CNN (Ren et al., NeurIPS 2015) and RetinaNet (Lin et al., ICCV 2017). If
    the IoUs with several objects are equal, the first object is chosen.

    An object whose IoU is below the threshold for all anchors would have no positive. Its
    *low-quality matches* are the anchors with the highest IoU with it (all of them in a tie),
    if that IoU is above 0 and at least ``low_quality_iou``. Unlike in Detectron2's Matcher, an
    object that overlaps no anchor has no match; there, all anchors of IoU 0 would become its
    positives.

    Args:
        positive_iou: an anchor with at least this IoU with an object is positive, in [0, 1].
        negative_iou: an anchor with less than this IoU with every object is background, in
            [0, positive_iou]; one between the two thresholds is ignored.
        low_quality: the object that a low-quality match of an object A is assigned to. "object": A,
            even if the anchor's IoU with another object is higher. If the anchor is a low-quality
            match of several objects, the last of them gets it, and the others may have no positive.
            The ranking papers train with this option. "anchor": the object with the highest IoU
            with the anchor, as in Detectron2; A may then have no positive. None: no low-quality
            matches.
        low_quality_iou: the minimum IoU of a low-quality match, in [0, 1]; 0.3 in the RPN of the
            ranking papers.

    Raises:
        ValueError: an argument is out of range.
    """

    needs_grid = False

    def __init__(
        self,
        positive_iou: float = 0.5,
        negative_iou: float = 0.4,
        low_quality: LowQuality | None = "object",
        low_quality_iou: float = 0.0,
    ) -> None:
        super().__init__()
        is_valid = 0 <= negative_iou <= positive_iou <= 1
        expected = "0 <= negative_iou <= positive_iou <= 1"
        check_that(is_valid, "negative_iou, positive_iou", expected, (negative_iou, positive_iou))
        is_known = low_quality in ("object", "anchor", None)
        check_that(is_known, "low_quality", "'object', 'anchor' or None", low_quality)
        in_range = 0 <= low_quality_iou <= 1
        check_that(in_range, "low_quality_iou", "a number in [0, 1]", low_quality_iou)
        self.positive_iou, self.negative_iou = positive_iou, negative_iou
        self.low_quality, self.low_quality_iou = low_quality, low_quality_iou

    def match(self, image: ImageInputs) -> Tensor:
        """Match the candidates of one image.

        Args:
            image: the candidates and objects of the image.

        Returns:
            (R,) int64: the index 0..G-1 of the object, BACKGROUND or IGNORE.
        """
        gt_boxes, valid = image.gt_boxes, image.valid
        matched = unmatched(valid)
        if not len(gt_boxes) or not len(valid):
            return matched
        boxes = torch.cat(list(image.anchors))
        best = torch.full_like(boxes[:, 0], -1.0)
        index = torch.zeros_like(matched)
        low_quality = torch.full_like(matched, -1)
        for rows in blocks(len(gt_boxes), len(boxes)):
            iou = box_iou(gt_boxes[rows, None], boxes).masked_fill_(~valid, -1.0)
            if self.low_quality is not None:
                low_quality = torch.maximum(low_quality, self._last_low_quality(iou, rows.start))
            value, row = iou.max(dim=0)
            is_better = value > best
            best = torch.where(is_better, value, best)
            index = torch.where(is_better, row + rows.start, index)
        matched[best >= self.negative_iou] = IGNORE
        matched = torch.where(best >= self.positive_iou, index, matched)
        low_quality_index = low_quality if self.low_quality == "object" else index
        return torch.where(low_quality >= 0, low_quality_index, matched)

    def _last_low_quality(self, iou: Tensor, first: int) -> Tensor:
        """Find the last object that each anchor is a low-quality match of.

        Args:
            iou: (g, R) IoUs of consecutive objects with all anchors.
            first: the index of the first of these objects.

        Returns:
            (R,) int64, the index of the object; -1 for an anchor that is not a low-quality match.
        """
        highest = iou.amax(dim=1, keepdim=True)
        is_high_enough = (highest > 0) & (highest >= self.low_quality_iou)
        # In int32, because this matrix is as large as the matrix of IoUs.
        index = torch.arange(first, first + len(iou), dtype=torch.int32, device=iou.device)
        return torch.where((iou == highest) & is_high_enough, index[:, None], -1).amax(dim=0).long()
