"""Adaptive training sample selection (Zhang et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ranking_det.assigners.assignment import Assigner, ImageInputs, unmatched
from ranking_det.boxes import box_iou
from ranking_det.checks import check_integer
from ranking_det.row_blocks import blocks


class ATSS(Assigner):
    """Positives are the closest anchors whose IoU stands out for that object.

    For each object, the ``topk`` anchors per level whose centres are closest to its centre are
    candidates (all of a level that has fewer). A candidate is positive if its IoU is at least the
    mean plus the standard deviation of the candidates' IoUs, and its centre lies inside the object.
    An anchor that is positive for several objects goes to the one it overlaps most, of equal ones
    to the first. All other anchors are background.

    The deviation is the unbiased one, as in the paper's code; a single candidate has deviation 0.

    Args:
        topk: candidates per object and level, >= 1.
    """

    INSIDE = 0.01  # px; a centre on an object's edge is not inside (the paper's code)

    def __init__(self, topk: int = 9) -> None:
        super().__init__()
        check_integer("topk", topk, 1)
        self.topk = topk

    def match(self, image: ImageInputs) -> Tensor:
        """See :meth:`Assigner.match`."""
        anchors, gt_boxes, valid = image.anchors, image.gt_boxes, image.valid
        matched = unmatched(valid)
        if not len(gt_boxes) or not len(valid):
            return matched
        index, exists = self._candidates(anchors, gt_boxes, valid)  # (G, C)
        boxes = torch.cat(list(anchors))[index]  # (G, C, 4)
        iou = box_iou(boxes, gt_boxes[:, None])
        threshold = _mean_plus_std(iou, exists)
        centers = (boxes[..., :2] + boxes[..., 2:]) / 2
        low, high = gt_boxes[:, None, :2], gt_boxes[:, None, 2:]
        margin = torch.cat([centers - low, high - centers], dim=-1).amin(dim=-1)
        positive = exists & (iou >= threshold) & (margin > self.INSIDE)
        return _resolve(index, iou.masked_fill(~positive, -1.0), positive, matched)

    def _candidates(
        self, anchors: Sequence[Tensor], gt_boxes: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Indices (G, C) of the closest anchors of all levels, and whether there are as many."""
        gt_centers = (gt_boxes[:, :2] + gt_boxes[:, 2:]) / 2
        index, exists, offset = [], [], 0
        for boxes in anchors:
            far = ~valid[offset : offset + len(boxes)]
            centers = (boxes[:, :2] + boxes[:, 2:]) / 2
            k = min(self.topk, len(boxes))
            closest = []
            for rows in blocks(len(gt_boxes), len(boxes)):
                # Squared: the order is the same, and a root would round some distances to ties.
                distance = (gt_centers[rows, None, 0] - centers[None, :, 0]).square_()
                distance += (gt_centers[rows, None, 1] - centers[None, :, 1]).square_()
                closest.append(distance.masked_fill_(far, torch.inf).topk(k, dim=1, largest=False))
            index.append(torch.cat([c.indices for c in closest]) + offset)
            exists.append(torch.cat([c.values for c in closest]).isfinite())
            offset += len(boxes)
        return torch.cat(index, dim=1), torch.cat(exists, dim=1)


def _mean_plus_std(iou: Tensor, exists: Tensor) -> Tensor:
    """Mean plus unbiased standard deviation (G, 1) of those entries (G, C) that exist."""
    count = exists.sum(dim=1, keepdim=True)
    mean = (iou * exists).sum(dim=1, keepdim=True) / count.clamp(min=1)
    deviation = ((iou - mean).square() * exists).sum(dim=1, keepdim=True)
    return mean + (deviation / (count - 1).clamp(min=1)).sqrt()


def _resolve(index: Tensor, iou: Tensor, positive: Tensor, matched: Tensor) -> Tensor:
    """Give each positive anchor to the object of the highest IoU, of equal ones to the first."""
    anchor, iou = index.reshape(-1), iou.reshape(-1)
    best = iou.new_full(matched.shape, -1.0).scatter_reduce_(0, anchor, iou, "amax")
    wins = positive.reshape(-1) & (iou == best[anchor])
    objects = torch.arange(len(index), device=index.device).repeat_interleave(index.shape[1])
    first = torch.full_like(matched, len(index)).scatter_reduce_(
        0, anchor, torch.where(wins, objects, len(index)), "amin"
    )
    return torch.where(first < len(index), first, matched)
