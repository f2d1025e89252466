"""Instance weights: weight the localization error of each positive.

See Rank & Sort Loss (Oksuz et al., ICCV 2021, table S1). Each class takes the :class:`Candidates`
of a step and returns detached weights (P,) >= 0. In a single process this does not synchronize
host and device.
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
    """Weight all positives equally."""

    def forward(self, candidates: Candidates) -> Tensor:
        """Return the weights.

        Args:
            candidates: the candidates of one step.

        Returns:
            (P,), all ones.
        """
        return torch.ones_like(candidates.overlap)


class ScoreWeight(nn.Module):
    """Weight each positive by its class score, the sigmoid of a logit.

    Args:
        target_class: True for the score of the object's class, as in APE Loss (Xu et al., CVPR
            2022); False for the highest score of the row, as in Rank & Sort Loss.
    """

    def __init__(self, target_class: bool = False) -> None:
        super().__init__()
        self.target_class = target_class

    def forward(self, candidates: Candidates) -> Tensor:
        """Compute the weights.

        Args:
            candidates: the candidates of one step.

        Returns:
            (P,) in (0, 1), detached.
        """
        rows = candidates.positives
        # In the dtype of the IoU, because small weights underflow in float16.
        logits = candidates.logits.detach()[rows].to(candidates.overlap.dtype)
        if self.target_class:
            return logits.gather(1, candidates.labels[rows, None]).squeeze(1).sigmoid()
        return logits.amax(dim=1).sigmoid()


class IoUWeight(nn.Module):
    """Weight each positive by its overlap with its object, such as the IoU of its decoded box."""

    def forward(self, candidates: Candidates) -> Tensor:
        """Return the overlaps.

        Args:
            candidates: the candidates of one step.

        Returns:
            (P,) in [0, 1], detached.
        """
        return candidates.overlap


class CenternessWeight(nn.Module):
    """Weight each positive by the centerness of its anchor (Tian et al., FCOS, ICCV 2019, eq. 3).

    It is 0 if the center of the anchor is outside the object, which happens with IoU-based
    assigners.
    """

    def forward(self, candidates: Candidates) -> Tensor:
        """Compute the centerness.

        Args:
            candidates: the candidates of one step.

        Returns:
            (P,) in [0, 1], detached.
        """
        anchors, objects = candidates.box_targets.anchors, candidates.box_targets.gt_boxes
        centers = (anchors[:, :2] + anchors[:, 2:]).to(candidates.overlap.dtype) / 2
        before, after = centers - objects[:, :2], objects[:, 2:] - centers
        # The minimum avoids 0 / 0 for a center on both edges of an empty object: centerness 0.
        ratio = torch.min(before, after) / torch.max(before, after).clamp(min=1e-9)
        return ratio.clamp(min=0).prod(dim=1).sqrt().detach()


class RankingWeight(nn.Module):
    """Weight each positive by the ranking, as aLRP Loss weights the localization errors.

    w_i = 1/P sum over the positives k of H(s_i - s_k) / rank(k) (Oksuz et al., Rank & Sort Loss,
    ICCV 2021, eq. S21). Positives with high logits have the largest weights. All images of the
    process are ranked together, even if the criterion's ``rank_scope`` is "image". With "global",
    the images of all processes are ranked together. rank(k) uses a step of half-width 0.5, as Rank
    & Sort Loss does. O(M log P) time.

    Args:
        delta: half-width of the step H in the numerator, in logits, >= 0 (delta_loc in table S3).

    Raises:
        ValueError: ``delta`` is out of range.
    """

    def __init__(self, delta: float = 0.0) -> None:
        super().__init__()
        check_at_least("delta", delta, 0.0)
        self.delta = delta

    def forward(self, candidates: Candidates) -> Tensor:
        """Compute the weights.

        Args:
            candidates: the candidates of one step.

        Returns:
            (P,) in [0, 1], detached.
        """
        with exact_arithmetic(candidates.logits):
            logits, positives = candidates.entries()
            ranked = gather_ranked_logits(logits, positives, [], candidates.group)
            if ranked is None:
                return torch.zeros_like(candidates.overlap)
            sums = IntervalSums(ranked, delta=0.5)
            positives_above = sums.over_other_positives(torch.ones_like(ranked.scores))
            rank = 1 + positives_above + sums.false_positives
            weights = inverse_ranks_below(ranked.scores, rank, self.delta)
            return (weights / len(rank))[ranked.local].to(candidates.overlap)
