"""Assignment by the IoU of the anchor with the object."""

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
    """Each anchor goes to the object it overlaps most, if it overlaps enough.

    The rule of Faster R-CNN and RetinaNet; of several objects of the same IoU the first wins.

    An object that overlaps no anchor enough would have no positive. Its *low-quality matches* are
    the anchors that overlap it most (all that tie), if that IoU is above 0 and at least
    ``low_quality_iou``. Unlike with Detectron2's Matcher, an object that overlaps nothing takes
    nothing; there, all anchors of IoU 0 would become its positives.

    Args:
        positive_iou: an anchor of at least this IoU with an object is positive.
        negative_iou: an anchor of less than this with every object is background; one between the
            two is ignored.
        low_quality: whom a low-quality match goes to. "object": the object that it is a match of,
            whatever the anchor overlaps more, and of several such objects the last; every object
            whose highest IoU is enough then has a positive, unless a later object takes it. This
            is what the ranking papers trained with. "anchor": the object that the anchor overlaps
            most, as in Detectron2, which may leave the other without a positive. None: there are no
            low-quality matches.
        low_quality_iou: the least IoU of such an anchor; .3 in the RPN of the ranking papers.

    Raises:
        ValueError: an argument is out of its range.
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
        right = 0 <= negative_iou <= positive_iou <= 1
        expected = "0 <= negative_iou <= positive_iou <= 1"
        check_that(right, "negative_iou, positive_iou", expected, (negative_iou, positive_iou))
        known = low_quality in ("object", "anchor", None)
        check_that(known, "low_quality", "'object', 'anchor' or None", low_quality)
        in_range = 0 <= low_quality_iou <= 1
        check_that(in_range, "low_quality_iou", "a number in [0, 1]", low_quality_iou)
        self.positive_iou, self.negative_iou = positive_iou, negative_iou
        self.low_quality, self.low_quality_iou = low_quality, low_quality_iou

    def match(self, image: ImageInputs) -> Tensor:
        """See :meth:`Assigner.match`."""
        gt_boxes, valid = image.gt_boxes, image.valid
        matched = unmatched(valid)
        if not len(gt_boxes) or not len(valid):
            return matched
        boxes = torch.cat(list(image.anchors))
        best = torch.full_like(boxes[:, 0], -1.0)
        index = torch.zeros_like(matched)
        claimant = torch.full_like(matched, -1)
        for rows in blocks(len(gt_boxes), len(boxes)):
            iou = box_iou(gt_boxes[rows, None], boxes).masked_fill_(~valid, -1.0)
            if self.low_quality is not None:
                claimant = torch.maximum(claimant, self._last_claimant(iou, rows.start))
            value, row = iou.max(dim=0)
            better = value > best
            best = torch.where(better, value, best)
            index = torch.where(better, row + rows.start, index)
        matched[best >= self.negative_iou] = IGNORE
        matched = torch.where(best >= self.positive_iou, index, matched)
        owner = claimant if self.low_quality == "object" else index
        return torch.where(claimant >= 0, owner, matched)

    def _last_claimant(self, iou: Tensor, first: int) -> Tensor:
        """The last object (R,), counted from ``first``, whose low-quality match an anchor is.

        Args:
            iou: (g, R) of some of the objects.
            first: number of the first of them.

        Returns:
            int64; -1 for an anchor that is nobody's.
        """
        highest = iou.amax(dim=1, keepdim=True)
        enough = (highest > 0) & (highest >= self.low_quality_iou)
        # In int32, since this is as large as the IoUs.
        number = torch.arange(first, first + len(iou), dtype=torch.int32, device=iou.device)
        return torch.where((iou == highest) & enough, number[:, None], -1).amax(dim=0).long()
