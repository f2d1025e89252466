"""Non-maximum suppression (NMS), Fast NMS, Soft-NMS and score voting, each by class.

A suppression is called as ``suppression(boxes, scores, classes, limit)`` with the n detections of
one image: (n, 4) XYXY, (n,) and (n,) int64. It returns at most ``limit`` :class:`Survivors`.
Dense detectors, box heads and RPNs all take a suppression.

Shapes: n detections of one image before suppression, k after it.
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
"""Entries of one block of a (k, n, 4) tensor; all temporary tensors take tens of MiB."""


class Survivors(NamedTuple):
    """Detections that survive the suppression, by descending score.

    Attributes:
        rows: (k,) int64, indices into the n detections.
        scores: (k,), lowered by Soft-NMS.
        boxes: (k, 4) XYXY in pixels, moved by score voting.
    """

    rows: Tensor
    scores: Tensor
    boxes: Tensor


class HardNMS(nn.Module):
    """Greedy NMS: drop detections that overlap a higher-scored detection of the same class.

    Args:
        iou_thresh: the IoU above which a detection is dropped, in [0, 1].
        exact: whether to compute in float64. Boxes of different classes are moved apart by large
            offsets, which round the boxes in float32, as in Detectron2.

    Raises:
        ValueError: ``iou_thresh`` is not a finite number >= 0.
    """

    def __init__(self, iou_thresh: float = 0.5, *, exact: bool = True) -> None:
        super().__init__()
        check_at_least("iou_thresh", iou_thresh, 0.0)
        self.iou_thresh = iou_thresh
        self.exact = exact

    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor, limit: int) -> Survivors:
        """Suppress duplicate detections of one image.

        Args:
            boxes: (n, 4) float, XYXY boxes in pixels.
            scores: (n,) float.
            classes: (n,) int64.
            limit: the maximum number of survivors, >= 1.

        Returns:
            The survivors, by descending score.
        """
        # mps has no float64.
        wide = torch.float64 if self.exact and boxes.device.type != "mps" else torch.float32
        rows = batched_nms(boxes.to(wide), scores.to(wide), classes, self.iou_thresh)[:limit]
        return Survivors(rows, scores[rows], boxes[rows])


class FastNMS(nn.Module):
    """Fast NMS: drop detections that overlap any higher-scored detection of the same class.

    Unlike in greedy NMS, a detection that is dropped still suppresses others. The IoUs of all pairs
    of a class are computed at once, without a loop over detections (Bolya et al., YOLACT, ICCV
    2019, section 4.1). Only the ``topk`` highest-scored detections of each class enter.

    Args:
        iou_thresh: the IoU above which a detection is dropped, in [0, 1].
        topk: detections of a class that enter, >= 1.

    Raises:
        ValueError: an argument is out of range.

    >>> boxes = torch.tensor([[0., 0., 4., 2.], [1., 0., 5., 2.], [2., 0., 6., 2.]])
    >>> detections = boxes, torch.tensor([.9, .8, .7]), torch.tensor([0, 0, 0])
    >>> FastNMS()(*detections, limit=3).rows, HardNMS()(*detections, limit=3).rows
    (tensor([0]), tensor([0, 2]))
    """

    def __init__(self, iou_thresh: float = 0.5, *, topk: int = 200) -> None:
        super().__init__()
        check_at_least("iou_thresh", iou_thresh, 0.0)
        check_integer("topk", topk, 1)
        self.iou_thresh, self.topk = iou_thresh, topk

    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor, limit: int) -> Survivors:
        """Suppress duplicate detections of one image.

        Args:
            boxes: (n, 4) float, XYXY boxes in pixels.
            scores: (n,) float.
            classes: (n,) int64.
            limit: the maximum number of survivors, >= 1.

        Returns:
            The survivors, by descending score.

        Raises:
            ValueError: a shape, dtype or device is not as described, or ``limit`` is below 1.
        """
        check_detections(boxes, scores, classes)
        check_integer("limit", limit, 1)
        order = scores.argsort(descending=True, stable=True)
        if not len(order):
            return Survivors(order, scores, boxes)
        group, counts = classes[order].unique(return_inverse=True, return_counts=True)[1:]
        # The place of each detection in its class: 0 for the highest score.
        by_class = group.argsort(stable=True)
        first = (counts.cumsum(0) - counts)[group[by_class]]
        place = torch.empty_like(group)
        place[by_class] = torch.arange(len(order), device=order.device) - first
        enters = place < self.topk
        order, group, place = order[enters], group[enters], place[enters]
        # One row for each class. The boxes that fill up a row are empty, so they suppress nothing.
        width = min(self.topk, int(counts.max()))
        table = boxes.new_zeros(len(counts), width, 4)
        table[group, place] = boxes[order]
        highest = []
        for rows in blocks(len(table), 4 * width * width, BLOCK_ENTRIES):
            iou = box_iou(table[rows, :, None], table[rows, None]).nan_to_num(nan=0.0)
            highest.append(iou.triu(diagonal=1).amax(dim=1))
        is_best = torch.cat(highest)[group, place] <= self.iou_thresh
        survivors = order[is_best][:limit]
        return Survivors(survivors, scores[survivors], boxes[survivors])


class SoftNMS(nn.Module):
    """Soft-NMS: lower the scores of overlapping detections (Bodla et al., ICCV 2017).

    Repeatedly pick the detection with the highest score and lower the scores of the detections of
    its class that overlap it. Scores only decrease, and the picks of all classes are in descending
    order, so a smaller limit gives the first picks of a larger one. Detections with a score of 0 or
    less, or NaN, are dropped. Lowered scores are in float32 or better.

    Args:
        method: the factor of a score, given its IoU with the picked detection. "linear": 1 - IoU if
            the IoU is at least ``iou_thresh``. "gaussian": exp(-IoU^2 / sigma).
        iou_thresh: the threshold of the linear method, in [0, 1].
        sigma: the width of the Gaussian method, > 0.
        min_score: drop detections whose lowered score is at most this value, >= 0. For detectors
            with an IoU or centerness branch, scores are sqrt(class score x branch score).

    Raises:
        ValueError: an argument is out of range.

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
        """Lower the scores of duplicate detections of one image.

        Args:
            boxes: (n, 4) float, XYXY boxes in pixels.
            scores: (n,) float.
            classes: (n,) int64.
            limit: the maximum number of survivors, >= 1.

        Returns:
            The survivors, by descending score, which is lowered.

        Raises:
            ValueError: a shape, dtype or device is not as described, or ``limit`` is below 1.
        """
        check_detections(boxes, scores, classes)
        check_integer("limit", limit, 1)
        # Lowered scores would be equal in float16. The score of a picked detection becomes 0.
        remaining = scores.to(torch.promote_types(scores.dtype, torch.float32)).nan_to_num(nan=0.0)
        steps = min(limit, len(scores))
        picks = torch.empty(steps, dtype=torch.int64, device=scores.device)
        lowered = remaining.new_empty(steps)
        # The loop reads no value: on a GPU that would force a synchronization each time.
        for step in range(steps):
            value, best = remaining.max(dim=0, keepdim=True)
            picks[step : step + 1], lowered[step : step + 1] = best, value
            iou = box_iou(boxes[best], boxes).nan_to_num(nan=0.0)  # NaN: non-finite boxes
            if self.method == "linear":
                factor = torch.where(iou >= self.iou_thresh, 1 - iou, 1.0)
            else:
                factor = torch.exp(-iou.square() / self.sigma)
            remaining = torch.where(classes == classes[best], remaining * factor, remaining)
            remaining[best] = 0.0
        is_kept = lowered > self.min_score
        return Survivors(picks[is_kept], lowered[is_kept], boxes[picks[is_kept]])


class ScoreVoting(nn.Module):
    """Score voting: replace each surviving box by a weighted mean of overlapping boxes.

    The mean is over the boxes of the survivor's class that have an IoU above ``min_iou`` with it.
    The weight of a box is its score before suppression times exp(-(1 - IoU)^2 / sigma), so the
    survivor itself has its full score as weight (Kim and Lee, ECCV 2020). Boxes are in float32 or
    better.

    Args:
        suppression: the suppression that is applied first; its scores do not change.
        min_iou: boxes with at most this IoU with a survivor are ignored.
        sigma: width of the weights, > 0; with a smaller value, boxes of lower IoU have less weight.

    Raises:
        ValueError: ``sigma`` is out of range.

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
        """Suppress duplicate detections of one image, then vote on the boxes of the survivors.

        Args:
            boxes: (n, 4) float, XYXY boxes in pixels.
            scores: (n,) float.
            classes: (n,) int64.
            limit: the maximum number of survivors, >= 1.

        Returns:
            The survivors, by descending score as the suppression returns them, with voted boxes.

        Raises:
            ValueError: a shape, dtype or device is not as described.
        """
        check_detections(boxes, scores, classes)
        survivors: Survivors = self.suppression(boxes, scores, classes, limit)
        wide = torch.promote_types(torch.promote_types(boxes.dtype, scores.dtype), torch.float32)
        boxes, scores = boxes.to(wide), scores.to(wide)
        voted = boxes[survivors.rows]
        for block in blocks(len(voted), 4 * len(boxes), BLOCK_ENTRIES):
            rows = survivors.rows[block]
            iou = box_iou(boxes[rows, None], boxes)  # (rows, n)
            weight = scores * torch.exp(-(1 - iou).square() / self.sigma)
            # This also drops the NaN of non-finite boxes.
            votes = (iou > self.min_iou) & (classes[rows, None] == classes)
            weight = torch.where(votes, weight, 0.0)
            # A mean of shifts is exact if all boxes are equal. Without any weight (an empty box has
            # IoU 0 with itself) the box does not move.
            shift = torch.where(weight[..., None] > 0, boxes - boxes[rows, None], 0.0)
            total = weight.sum(dim=1, keepdim=True)
            mean = (weight[..., None] * shift).sum(dim=1) / total
            voted[block] += torch.where(total > 0, mean, 0.0)
        return survivors._replace(boxes=voted)
