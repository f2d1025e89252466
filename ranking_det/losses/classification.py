"""The losses as components of a criterion: modules from candidates to named scalars.

Each takes ``(candidates, labels, quality)`` with labels (R,) int64, a class or BACKGROUND or IGNORE,
and quality (P,), the detached IoU of each positive with its object, and returns a dict of scalars.
A ranking loss normalises itself; a baseline returns a sum, and the criterion divides it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ranking_det.labels import IGNORE
from ranking_det.losses.candidates import Candidates
from ranking_det.losses.focal import focal
from ranking_det.losses.rank_sort import rank_sort_loss


def ranked_entries(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Flatten (R, K) logits to the M = R K entries that a ranking loss ranks.

    Entry (row r, class c) has index r K + c. Ignored rows become -inf, which never takes part, so
    that no index moves.

    Args:
        logits: (R, K).
        labels: (R,) int64, a class or BACKGROUND or IGNORE.

    Returns:
        The logits (M,) and the indices (P,) int64 of the positive entries, in row order.
    """
    rows = torch.nonzero(labels >= 0).squeeze(1)
    entries = logits.masked_fill((labels == IGNORE)[:, None], -torch.inf).reshape(-1)
    return entries, rows * logits.shape[1] + labels[rows]


class RankSort(nn.Module):
    """Rank & Sort Loss (Oksuz et al., ICCV 2021) over all classes, levels and images together.

    Args:
        delta: half-width of the smoothed step, in logits, >= 0.
    """

    def __init__(self, delta: float = 0.5) -> None:
        super().__init__()
        if delta < 0:
            raise ValueError(f"delta must be >= 0, got {delta}")
        self.delta = delta

    def forward(self, candidates: Candidates, labels: Tensor, quality: Tensor) -> dict[str, Tensor]:
        """Return ``loss_rank`` and ``loss_sort``."""
        entries, positives = ranked_entries(candidates.logits, labels)
        losses = rank_sort_loss(entries, positives, quality, delta=self.delta)
        return {"loss_rank": losses.ranking, "loss_sort": losses.sorting}


class Focal(nn.Module):
    """Focal Loss (Lin et al., ICCV 2017), summed over all rows that are not ignored.

    Args:
        alpha: weight of the positives, in [0, 1]; negatives weigh 1 - alpha.
        gamma: exponent of the modulating factor, >= 0.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma

    def forward(self, candidates: Candidates, labels: Tensor, quality: Tensor) -> dict[str, Tensor]:
        """Return ``loss_cls``, a sum."""
        loss = focal(candidates.logits, labels, alpha=self.alpha, gamma=self.gamma)
        return {"loss_cls": loss}
