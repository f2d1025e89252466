"""The ranking losses as components of a criterion.

An option is checked when its module is built, by the loss function itself, on a ranking of nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist

from ranking_det.criteria.candidates import Matches
from ranking_det.criteria.classification import Classification
from ranking_det.losses.ape import ape_loss
from ranking_det.losses.average_precision import ap_loss
from ranking_det.losses.rank_sort import rank_sort_loss

_NO_LOGITS, _NO_INDICES = torch.zeros(0), torch.zeros(0, dtype=torch.int64)


class RankSort(Classification):
    """Rank & Sort Loss; see :func:`ranking_det.losses.rank_sort_loss`, also for the argument."""

    uses_quality = True
    across_workers = True

    def __init__(self, delta: float = 0.5) -> None:
        super().__init__()
        self.delta = delta
        rank_sort_loss(_NO_LOGITS, _NO_INDICES, _NO_LOGITS, delta=delta)

    def forward(self, matches: Matches) -> dict[str, Tensor]:
        """Return ``loss_rank`` and ``loss_sort``."""
        entries, positives = matches.entries()
        losses = rank_sort_loss(
            entries, positives, matches.quality, delta=self.delta, group=matches.group
        )
        return {"loss_rank": losses.ranking, "loss_sort": losses.sorting}


class AveragePrecision(Classification):
    """AP Loss and its variants; see :func:`ranking_det.losses.ap_loss`, also for the arguments."""

    across_workers = True

    def __init__(
        self,
        delta: float = 1.0,
        interpolated: bool = True,
        distance: str = "step",
        lam: float = 8.0,
        balance: str = "rank",
        margin: float = 0.25,
        self_count: float = 1.0,
        max_negatives: int | None = None,
    ) -> None:
        super().__init__()
        self.delta = delta
        self.interpolated = interpolated
        self.distance = distance
        self.lam = lam
        self.balance = balance
        self.margin = margin
        self.self_count = self_count
        self.max_negatives = max_negatives
        self._loss(_NO_LOGITS, _NO_INDICES, None)

    def forward(self, matches: Matches) -> dict[str, Tensor]:
        """Return ``loss_cls``."""
        entries, positives = matches.entries()
        return {"loss_cls": self._loss(entries, positives, matches.group)}

    def _loss(self, entries: Tensor, positives: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        return ap_loss(
            entries,
            positives,
            delta=self.delta,
            interpolated=self.interpolated,
            distance=self.distance,
            lam=self.lam,
            balance=self.balance,
            margin=self.margin,
            self_count=self.self_count,
            max_negatives=self.max_negatives,
            group=group,
        )


class APE(Classification):
    """APE Loss; see :func:`ranking_det.losses.ape_loss`, also for the arguments."""

    uses_quality = True

    def __init__(
        self,
        lam: float = 8.0,
        cutoff: float | None = -4.0,
        count_self: bool = True,
        max_negatives: int | None = 100_000,
        weight_by_quality: bool = True,
        saturate: bool = False,
        normalizer: str = "positives",
    ) -> None:
        super().__init__()
        self.lam = lam
        self.cutoff = cutoff
        self.count_self = count_self
        self.max_negatives = max_negatives
        self.weight_by_quality = weight_by_quality
        self.saturate = saturate
        self.normalizer = normalizer
        self._loss(_NO_LOGITS, _NO_INDICES, _NO_LOGITS)

    def forward(self, matches: Matches) -> dict[str, Tensor]:
        """Return ``loss_cls``."""
        entries, positives = matches.entries()
        return {"loss_cls": self._loss(entries, positives, matches.quality)}

    def _loss(self, entries: Tensor, positives: Tensor, quality: Tensor) -> Tensor:
        return ape_loss(
            entries,
            positives,
            quality,
            lam=self.lam,
            cutoff=self.cutoff,
            count_self=self.count_self,
            max_negatives=self.max_negatives,
            weight_by_quality=self.weight_by_quality,
            saturate=self.saturate,
            normalizer=self.normalizer,
        )
