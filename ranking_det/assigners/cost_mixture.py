"""Probabilistic anchor assignment (PAA): a mixture of two Gaussians on the cost of each anchor.

Shapes: n competing anchors and G objects in the whole batch. Except for the IoU of anchors and
objects, nothing here loops over images or objects.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ranking_det.assigners.assignment import Assigner, BatchInputs, ImageInputs, Predictions
from ranking_det.assigners.gaussian_mixture import classify, fit_two_gaussians, in_float64
from ranking_det.assigners.max_iou import LowQuality, MaxIoU
from ranking_det.checks import check_at_least, check_choice, check_integer, check_that
from ranking_det.labels import BACKGROUND

Fallback = Literal["positive", "none"]


class Competitors(NamedTuple):
    """Anchors that compete for the objects of a batch, and the objects.

    Attributes:
        rows: (n,) int64, the index of each anchor among the R candidates.
        objects: (n,) int64, the object 0..G-1 that it competes for.
        boxes: (G, 4) XYXY boxes of all objects in pixels.
        classes: (G,) int64, the classes of all objects in 0..K-1.
    """

    rows: Tensor
    objects: Tensor
    boxes: Tensor
    classes: Tensor


class CostMixture(Assigner):
    """Base class of assigners that split the anchors of an object by their costs (PAA).

    An anchor competes for the object with which it has the highest IoU, if the IoU is at least
    ``min_iou`` or the anchor is a low-quality match; see :class:`MaxIoU`. The samples of an object
    are, on each level, the ``topk`` competing anchors with the lowest cost. A mixture of two
    Gaussians is fitted to the samples of all levels together. Samples of the cheaper component are
    positive if their cost is at most the cost of the component's most likely sample. All other
    anchors are background (Kim and Lee, ECCV 2020, algorithm 1).

    If an object has two samples, the cheaper one is positive; ties go to the first. A mixture of
    two components gives the same result. An anchor with a non-finite cost does not compete.

    Args:
        topk: the number of samples per object and level, >= 1.
        min_iou: the IoU from which an anchor competes, in [0, 1].
        single_candidate: the label of an object's only sample: "positive", or "none" for
            background.
        low_quality: the object that a low-quality match competes for, "object" or "anchor"; see
            :class:`MaxIoU`.
        empty_component: the label of all samples if the cheaper component has none: "positive", or
            "none" for background.
        reg_covar: added to the variances of the mixture, > 0.

    Raises:
        ValueError: an argument is out of range.
    """

    needs_predictions = True

    def __init__(
        self,
        topk: int = 9,
        min_iou: float = 0.1,
        single_candidate: Fallback = "positive",
        low_quality: LowQuality = "anchor",
        empty_component: Fallback = "positive",
        reg_covar: float = 1e-6,
    ) -> None:
        super().__init__()
        check_integer("topk", topk, 1)
        check_that(0 <= min_iou <= 1, "min_iou", "a number in [0, 1]", min_iou)
        check_choice("single_candidate", single_candidate, ("positive", "none"))
        check_choice("low_quality", low_quality, ("object", "anchor"))
        check_choice("empty_component", empty_component, ("positive", "none"))
        check_at_least("reg_covar", reg_covar, 0.0, strictly=True)
        self.topk, self.reg_covar = topk, reg_covar
        self.single_candidate, self.empty_component = single_candidate, empty_component
        self.competitors = MaxIoU(min_iou, min_iou, low_quality)

    def costs(self, predictions: Predictions, competitors: Competitors) -> Tensor:
        """Compute the cost of assigning each competing anchor to its object.

        Args:
            predictions: the predictions for all R candidates.
            competitors: the n anchors that compete for an object.

        Returns:
            (n,) float; an anchor with a non-finite cost is background.

        Raises:
            NotImplementedError: a subclass must define it.
        """
        raise NotImplementedError

    def match(self, image: ImageInputs) -> Tensor:
        """Match the candidates of one image.

        Args:
            image: the candidates and objects of the image.

        Returns:
            (R,) int64: the index 0..G-1 of the object, BACKGROUND or IGNORE.
        """
        anchors, gt_boxes, gt_classes, valid, predictions = image
        return self.match_all(BatchInputs(anchors, [gt_boxes], [gt_classes], valid, predictions))

    def match_all(self, batch: BatchInputs) -> Tensor:
        """Match the candidates of a batch, with one fit for all objects.

        Args:
            batch: the candidates and objects of the batch.

        Returns:
            (R,) int64: the object as an index into the batch's concatenated ground truth, or
            BACKGROUND.
        """
        anchors, gt_boxes, gt_classes, _, predictions = batch
        matched = self.competitors.match_all(batch)
        # The only synchronization of host and device, apart from those of the fit.
        rows = torch.nonzero(matched >= 0).squeeze(1)
        if predictions is None or not len(rows):
            return matched
        objects, boxes = matched[rows], torch.cat(list(gt_boxes))
        competitors = Competitors(rows, objects, boxes, torch.cat(list(gt_classes)))
        costs = self.costs(predictions, competitors)
        levels = [torch.full_like(a[:, 0], i, dtype=torch.int64) for i, a in enumerate(anchors)]
        cells = torch.cat(levels)
        groups = objects * len(levels) + cells[rows % len(cells)]
        samples, values = self._cheapest(costs, groups, len(boxes) * len(levels))
        positive = self._positives(values.reshape(len(boxes), -1))
        # Sample index n means that there is no anchor. Samples that are not positive go to an extra
        # entry at the end.
        rows = torch.cat([rows, rows.new_full((1,), len(matched))])
        entries = torch.where(positive.reshape(-1), rows[samples], len(matched))
        index = torch.arange(len(boxes), device=entries.device).repeat_interleave(positive.shape[1])
        result = torch.full((len(matched) + 1,), BACKGROUND, device=entries.device)
        return result.scatter_(0, entries, index)[:-1]

    def _cheapest(self, costs: Tensor, groups: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
        """Find the ``topk`` anchors with the lowest cost in each group; ties go to the first.

        Args:
            costs: (n,) float.
            groups: (n,) int64 in 0..num_groups-1.
            num_groups: the number of pairs of object and level.

        Returns:
            (num_groups topk,) int64 indices into costs, n where a group has fewer anchors; and
            their costs, infinite there.
        """
        costs = costs.masked_fill(~costs.isfinite(), torch.inf)
        order = costs.argsort(stable=True)
        sorted_groups, by_group = groups[order].sort(stable=True)
        order = order[by_group]
        position = torch.arange(len(costs), device=costs.device)
        rank = position - torch.searchsorted(sorted_groups, sorted_groups)
        size = num_groups * self.topk
        slots = torch.where(rank < self.topk, sorted_groups * self.topk + rank, size)
        samples = torch.full((size + 1,), len(costs), device=costs.device)
        samples = samples.scatter_(0, slots, order)[:-1]
        return samples, torch.cat([costs, costs.new_full((1,), torch.inf)])[samples]

    def _positives(self, values: Tensor) -> Tensor:
        """Return whether each sample is positive, by costs (G, C) that are infinite without one."""
        device, values = values.device, in_float64(values)
        exists = values.isfinite()
        mixture = fit_two_gaussians(values, exists, reg_covar=self.reg_covar)
        component, likelihood = classify(values, mixture)
        cheaper = exists & (component == 0)
        best = likelihood.masked_fill(~cheaper, -torch.inf).amax(dim=1, keepdim=True)
        # The limit is on the cost, not on the rank, so samples of equal cost get the same label.
        likeliest = cheaper & (likelihood == best)
        limit = values.masked_fill(~likeliest, torch.inf).amin(dim=1, keepdim=True)
        positive = cheaper & (values <= limit)
        if self.empty_component == "positive":
            positive |= exists & ~cheaper.any(dim=1, keepdim=True)
        # One or two samples are too few for a mixture: the cheapest is positive.
        count = exists.sum(dim=1, keepdim=True)
        first = torch.zeros_like(exists).scatter_(1, values.argmin(dim=1, keepdim=True), True)
        has_enough = count > (0 if self.single_candidate == "positive" else 1)
        return torch.where(count > 2, positive, exists & first & has_enough).to(device)
