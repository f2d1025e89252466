"""Suppression of duplicate detections: hard NMS, Soft-NMS and score voting, class by class.

A suppression is called as ``suppression(boxes, scores, classes, limit)`` with the n candidates of
one image, (n, 4) XYXY, (n,) and (n,) int64, and returns at most ``limit`` :class:`Survivors`. Dense
inference, box heads and region proposal networks take one alike.

Shapes: n detections of one image before suppression, k of them after it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from ranking_det.boxes import box_iou
from ranking_det.checks import check_at_least, check_choice, check_detections, check_integer
from ranking_det.row_blocks import blocks

BLOCK_ENTRIES = 1 << 20
"""Entries of one block of a (k, n, 4) tensor, and so some tens of MiB for all that is computed."""


class Survivors(NamedTuple):
    """What is left, by descending score."""

    rows: Tensor
    """(k,) int64, indices into the detections that were given."""
    scores: Tensor
    """(k,), lowered or not."""
    boxes: Tensor
    """(k, 4) XYXY, moved or not."""


class HardNMS(nn.Module):
    """Drop the lower-scored of two detections of a class that overlap too much.

    Args:
        iou_thresh: the IoU above which it is dropped, in [0, 1].
        exact: whether classes are told apart in float64. In float32, as Detectron2 has it, the
            large offsets that move them apart round the boxes.
    """

    def __init__(self, iou_thresh: float = 0.5, *, exact: bool = True) -> None:
        super().__init__()
        check_at_least("iou_thresh", iou_thresh, 0.0)
        self.iou_thresh = iou_thresh
        self.exact = exact

    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor, limit: int) -> Survivors:
        """Suppress; see the module's docstring."""
        # mps has no float64.
        wide = torch.float64 if self.exact and boxes.device.type != "mps" else torch.float32
        rows = batched_nms(boxes.to(wide), scores.to(wide), classes, self.iou_thresh)[:limit]
        return Survivors(rows, scores[rows], boxes[rows])


class SoftNMS(nn.Module):
    """Pick the detection of highest score, lower those of its class that overlap it, and repeat.

    Soft-NMS (Bodla et al., ICCV 2017). Scores only fall and the picks of all classes come in
    descending order, so that the first picks are those of a run to the end. A score of at most 0,
    or NaN, is never picked. Lowered scores are in float32 or better.

    Args:
        method: what a pick of overlap IoU multiplies a score by: "linear", 1 - IoU where the IoU is
            at least ``iou_thresh``; "gaussian", exp(-IoU^2 / sigma).
        iou_thresh: of the linear method, in [0, 1].
        sigma: of the Gaussian method, > 0.
        min_score: lowered scores of at most this are dropped, >= 0. They are compared as they
            come: those of a detector with an IoU or centreness branch are
            sqrt(class score x branch score).

    >>> boxes = torch.tensor([[0., 0., 2., 2.], [0., 0., 2., 1.5], [4., 0., 6., 2.]])
    >>> SoftNMS()(boxes, torch.tensor([.8, .4, .5]), torch.tensor([0, 0, 0]), limit=3)[:2]
    (tensor([0, 2, 1]), tensor([0.8000, 0.5000, 0.1000]))
    """

    def __init__(
        self,
        method: str = "linear",
        *,
        iou_thresh: float = 0.5,
        sigma: float = 0.5,
        min_score: float = 1e-3,
    ) -> None:
        super().__init__()
        check_choice("method", method, ("linear", "gaussian"))
        check_at_least("iou_thresh", iou_thresh, 0.0)
        check_at_least("sigma", sigma, 0.0, strictly=True)
        check_at_least("min_score", min_score, 0.0)
        self.method, self.iou_thresh = method, iou_thresh
        self.sigma, self.min_score = sigma, min_score

    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor, limit: int) -> Survivors:
        """Suppress; see the module's docstring."""
        check_detections(boxes, scores, classes)
        check_integer("limit", limit, 1)
        # Lowered scores of float16 would tie. A taken score is 0 from then on.
        remaining = scores.to(torch.promote_types(scores.dtype, torch.float32)).nan_to_num(nan=0.0)
        steps = min(limit, len(scores))
        picks = torch.empty(steps, dtype=torch.int64, device=scores.device)
        lowered = remaining.new_empty(steps)
        # No look at a value within the loop: on a GPU each would wait for the device.
        for step in range(steps):
            value, best = remaining.max(dim=0, keepdim=True)
            picks[step : step + 1], lowered[step : step + 1] = best, value
            iou = box_iou(boxes[best], boxes).nan_to_num(nan=0.0)  # of a box that is not finite
            if self.method == "linear":
                factor = torch.where(iou >= self.iou_thresh, 1 - iou, 1.0)
            else:
                factor = torch.exp(-iou.square() / self.sigma)
            remaining = torch.where(classes == classes[best], remaining * factor, remaining)
            remaining[best] = 0.0
        high = lowered > self.min_score
        return Survivors(picks[high], lowered[high], boxes[picks[high]])


class ScoreVoting(nn.Module):
    """Replace each survivor's box by the mean of the boxes of its class that overlap it.

    Score voting (Kim and Lee, ECCV 2020). A box counts with its score before suppression times
    exp(-(1 - IoU)^2 / sigma), if its IoU with the survivor is above ``min_iou``; the survivor
    itself counts with its whole score. Boxes are in float32 or better.

    Args:
        suppression: what suppresses; the scores that it leaves stay.
        min_iou: boxes of at most this IoU with a survivor do not count.
        sigma: the smaller, the less a distant box counts, > 0.

    >>> boxes = torch.tensor([[0., 0., 2., 2.], [0., 0., 2., 2.2]])
    >>> detections = boxes, torch.tensor([.5, .5]), torch.tensor([0, 0])
    >>> ScoreVoting(HardNMS())(*detections, limit=1).boxes
    tensor([[0.0000, 0.0000, 2.0000, 2.0836]])
    """

    def __init__(
        self, suppression: nn.Module, *, min_iou: float = 0.01, sigma: float = 0.025
    ) -> None:
        super().__init__()
        check_at_least("sigma", sigma, 0.0, strictly=True)
        self.suppression = suppression
        self.min_iou, self.sigma = min_iou, sigma

    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor, limit: int) -> Survivors:
        """Suppress; see the module's docstring."""
        check_detections(boxes, scores, classes)
        survivors: Survivors = self.suppression(boxes, scores, classes, limit)
        wide = torch.promote_types(torch.promote_types(boxes.dtype, scores.dtype), torch.float32)
        boxes, scores = boxes.to(wide), scores.to(wide)
        voted = boxes[survivors.rows]
        for block in blocks(len(voted), 4 * len(boxes), BLOCK_ENTRIES):
            rows = survivors.rows[block]
            iou = box_iou(boxes[rows, None], boxes)  # (rows, n)
            weight = scores * torch.exp(-(1 - iou).square() / self.sigma)
            # Also drops the NaN of a box that is not finite.
            counts = (iou > self.min_iou) & (classes[rows, None] == classes)
            weight = torch.where(counts, weight, 0.0)
            # The mean of the shifts: exact where all boxes are equal, and where none counts (an
            # empty box has IoU 0 with itself) the box stays as it is.
            shift = torch.where(weight[..., None] > 0, boxes - boxes[rows, None], 0.0)
            total = weight.sum(dim=1, keepdim=True)
            mean = (weight[..., None] * shift).sum(dim=1) / total
            voted[block] += torch.where(total > 0, mean, 0.0)
        return survivors._replace(boxes=voted)
