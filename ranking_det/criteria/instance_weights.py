"""Instance weights: how much the errors of each positive count (Oksuz et al., table S1).

Each takes the :class:`Candidates` of a step and returns detached weights (P,) >= 0, without a
synchronisation of host and device on one process.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ranking_det.checks import check_at_least
from ranking_det.criteria.candidates import Candidates
from ranking_det.losses.alrp import inverse_ranks_below
from ranking_det.losses.kernels.gradients import exact_arithmetic
from ranking_det.losses.kernels.interval_sums import IntervalSums
from ranking_det.losses.kernels.ranked_logits import gather_ranked_logits


class UniformWeight(nn.Module):
    """Every positive counts the same."""

    def forward(self, candidates: Candidates) -> Tensor:
        """Return ones (P,)."""
        return torch.ones_like(candidates.overlap)


class ScoreWeight(nn.Module):
    """A class score of the row, a probability.

    Args:
        own_class: of the object's class, as APE Loss has it; else the highest, as Rank & Sort Loss.
    """

    def __init__(self, own_class: bool = False) -> None:
        super().__init__()
        self.own_class = own_class

    def forward(self, candidates: Candidates) -> Tensor:
        """Return (P,) in (0, 1)."""
        rows = candidates.positives
        # In the type of the IoU: a float16 sigmoid loses small weights.
        logits = candidates.logits.detach()[rows].to(candidates.overlap.dtype)
        if self.own_class:
            return logits.gather(1, candidates.labels[rows, None]).squeeze(1).sigmoid()
        return logits.amax(dim=1).sigmoid()


class IoUWeight(nn.Module):
    """The overlap of each positive with its object: the IoU of its decoded box."""

    def forward(self, candidates: Candidates) -> Tensor:
        """Return (P,) in [0, 1]."""
        return candidates.overlap


class CenternessWeight(nn.Module):
    """How central the anchor lies in its object (Tian et al., FCOS, ICCV 2019, eq. 3).

    0 for an anchor whose centre is outside, as IoU assigners allow.
    """

    def forward(self, candidates: Candidates) -> Tensor:
        """Return (P,) in [0, 1]."""
        anchors, objects = candidates.box_targets.anchors, candidates.box_targets.gt_boxes
        centers = (anchors[:, :2] + anchors[:, 2:]).to(candidates.overlap.dtype) / 2
        before, after = centers - objects[:, :2], objects[:, 2:] - centers
        # A tiny floor: a centre exactly on both edges of an empty object is not central.
        ratio = torch.min(before, after) / torch.max(before, after).clamp(min=1e-9)
        return ratio.clamp(min=0).prod(dim=1).sqrt().detach()


class RankingWeight(nn.Module):
    """The share of the precision errors that a positive's box has in aLRP Loss.

    w_i = 1/P sum over the positives k of H(s_i - s_k) / rank(k) (Oksuz et al., eq. S21): positives
    of high logits count most. All images of the process are ranked together, or of all processes
    that share one ranking, also where the criterion's ``rank_scope`` is "image". The step in the
    rank has the half-width of Rank & Sort Loss, .5. O(M log P).

    Args:
        delta: half-width of the step H in the numerator, in logits, >= 0 (delta_loc in table S3).
    """

    def __init__(self, delta: float = 0.0) -> None:
        super().__init__()
        check_at_least("delta", delta, 0.0)
        self.delta = delta

    def forward(self, candidates: Candidates) -> Tensor:
        """Return (P,) in [0, 1]."""
        with exact_arithmetic(candidates.logits):
            logits, positives = candidates.entries()
            ranked = gather_ranked_logits(logits, positives, [], candidates.group)
            if ranked is None:
                return torch.zeros_like(candidates.overlap)
            sums = IntervalSums(ranked, delta=0.5)
            others = sums.over_other_positives(torch.ones_like(ranked.scores))
            rank = 1 + others + sums.false_positives
            weights = inverse_ranks_below(ranked.scores, rank, self.delta)
            return (weights / len(rank))[ranked.local].to(candidates.overlap)
