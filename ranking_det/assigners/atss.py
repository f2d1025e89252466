"""ATSS: adaptive training sample selection (Zhang et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ranking_det.assigners.assignment import Assigner, ImageInputs, unmatched
from ranking_det.boxes import box_iou
from ranking_det.checks import check_integer
from ranking_det.row_blocks import blocks


class ATSS(Assigner):
    """Assign the closest anchors by an adaptive IoU threshold (Zhang et al., CVPR 2020, alg. 1).

    The candidates of an object are, on each level, the ``topk`` anchors with centers closest to its
    center (all anchors if the level has fewer). A candidate is positive if its IoU is at least the
    mean plus the standard deviation of the candidates' IoUs, and if its center is inside the
    object. An anchor that is positive for several objects is assigned to the one with the highest
    IoU; ties go to the first. All other anchors are background.

    The standard deviation is unbiased, as in the paper's code; it is 0 for a single candidate.

    Args:
        topk: the number of candidates per object and level, >= 1.

    Raises:
        ValueError: ``topk`` is out of range.
    """

    INSIDE = 0.01  # pixels; a center on an edge is not inside (as in the paper's code)

    def __init__(self, topk: int = 9) -> None:
        super().__init__()
        check_integer("topk", topk, 1)
        self.topk = topk

    def match(self, image: ImageInputs) -> Tensor:
        """Match the candidates of one image.

        Args:
            image: the candidates and objects of the image.

        Returns:
            (R,) int64: the index 0..G-1 of the object, BACKGROUND or IGNORE.
        """
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
        """Find the closest anchors of each object: indices (G, C), and which of them are valid."""
        gt_centers = (gt_boxes[:, :2] + gt_boxes[:, 2:]) / 2
        index, exists, offset = [], [], 0
        for boxes in anchors:
            invalid = ~valid[offset : offset + len(boxes)]
            centers = (boxes[:, :2] + boxes[:, 2:]) / 2
            k = min(self.topk, len(boxes))
            closest = []
            for rows in blocks(len(gt_boxes), len(boxes)):
                # Squared: the order is the same, and a root would round some distances to equal.
                distance = (gt_centers[rows, None, 0] - centers[None, :, 0]).square_()
                distance += (gt_centers[rows, None, 1] - centers[None, :, 1]).square_()
                closest.append(
                    distance.masked_fill_(invalid, torch.inf).topk(k, dim=1, largest=False)
                )
            index.append(torch.cat([c.indices for c in closest]) + offset)
            exists.append(torch.cat([c.values for c in closest]).isfinite())
            offset += len(boxes)
        return torch.cat(index, dim=1), torch.cat(exists, dim=1)


def _mean_plus_std(iou: Tensor, exists: Tensor) -> Tensor:
    """Mean plus unbiased standard deviation (G, 1) of the existing entries (G, C)."""
    count = exists.sum(dim=1, keepdim=True)
    mean = (iou * exists).sum(dim=1, keepdim=True) / count.clamp(min=1)
    deviation = ((iou - mean).square() * exists).sum(dim=1, keepdim=True)
    return mean + (deviation / (count - 1).clamp(min=1)).sqrt()


def _resolve(index: Tensor, iou: Tensor, positive: Tensor, matched: Tensor) -> Tensor:
    """Assign each positive anchor to the object with the highest IoU; ties go to the first."""
    anchor, iou = index.reshape(-1), iou.reshape(-1)
    best = iou.new_full(matched.shape, -1.0).scatter_reduce_(0, anchor, iou, "amax")
    is_best = positive.reshape(-1) & (iou == best[anchor])
    objects = torch.arange(len(index), device=index.device).repeat_interleave(index.shape[1])
    first = torch.full_like(matched, len(index)).scatter_reduce_(
        0, anchor, torch.where(is_best, objects, len(index)), "amin"
    )
    return torch.where(first < len(index), first, matched)
