"""What trains the class scores: the ranking losses, and the baselines that do not rank.

Each takes the :class:`Candidates` of a step and returns a dict of scalars. A ranking loss
normalises itself; a baseline (``is_sum``) returns a sum, and the criterion divides it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ranking_det.criteria.candidates import BoxTargets, Candidates
from ranking_det.criteria.localization import Localization
from ranking_det.losses.alrp import alrp_loss
from ranking_det.losses.ape import ape_loss
from ranking_det.losses.average_precision import ap_loss
from ranking_det.losses.pointwise import cross_entropy, focal, quality_focal, varifocal
from ranking_det.losses.rank_sort import rank_sort_loss


class Classification(nn.Module):
    """Base class of the components.

    Args:
        options: the arguments of the subclass's constructor, as ``locals()`` there gives them. Each
            becomes an attribute; the loss function checks them, on candidates of no row.

    Attributes:
        is_sum: whether the scalars are sums, which the criterion divides.
        across_workers: whether the candidates' ``group`` may be other than None.
        takes_branch: whether inference may multiply the scores by those of an IoU or centreness
            branch. Not if the loss itself puts them in the order that inference needs.
        uses_continuous_labels: whether the positives' ``quality`` counts.
        softmax: whether the scores are the softmax over the classes and a background of logit 0,
            and not a sigmoid of each class.
    """

    is_sum = False
    across_workers = False
    takes_branch = False
    uses_continuous_labels = False
    softmax = False

    def __init__(self, options: dict[str, Any] | None = None) -> None:
        super().__init__()
        self._names = [name for name in options or () if name not in ("self", "__class__")]
        for name in self._names:
            setattr(self, name, (options or {})[name])
        self(_no_candidates())

    if TYPE_CHECKING:  # the options are attributes of any type

        def __getattr__(self, name: str) -> Any: ...

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the loss function."""
        return {name: getattr(self, name) for name in self._names}

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Return the named scalars."""
        raise NotImplementedError

    def over_images(self, candidates: Candidates) -> dict[str, Tensor]:
        """Return the named scalars of each image alone, the mean over images with a positive."""
        parts = [part for part in candidates.images() if len(part.positives)] or [candidates]
        losses = [self(part) for part in parts]
        return {name: torch.stack([loss[name] for loss in losses]).mean() for name in losses[0]}


def _no_candidates() -> Candidates:
    none, boxes = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)
    return Candidates(
        logits=torch.zeros(0, 1),
        labels=none,
        positives=none,
        image=none,
        level=none,
        num_images=0,
        boxes=BoxTargets(outputs=boxes, boxes=boxes, anchors=boxes, gt_boxes=boxes),
    )


class RankSort(Classification):
    """Rank & Sort Loss; see :func:`ranking_det.losses.rank_sort_loss`, also for the argument."""

    uses_continuous_labels = True
    across_workers = True

    def __init__(self, delta: float = 0.5) -> None:
        super().__init__(locals())

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Return ``loss_rank`` and ``loss_sort``."""
        losses = rank_sort_loss(
            *candidates.entries(), candidates.quality, group=candidates.group, **self.options
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
        super().__init__(locals())

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Return ``loss_cls``."""
        return {"loss_cls": ap_loss(*candidates.entries(), group=candidates.group, **self.options)}


class ALRP(Classification):
    """aLRP Loss; see :func:`ranking_det.losses.alrp_loss`, also for ``delta``.

    Args:
        localization: a task on boxes whose errors are in [0, 2].
        delta: half-width of the smoothed step, in logits, >= 0.
        tau: IoU above which a box counts as a true positive, in [0, 1). The localisation error is
            that of the task over 2 (1 - tau).
    """

    across_workers = True

    def __init__(self, localization: Localization, delta: float = 1.0, tau: float = 0.5) -> None:
        if not 0 <= tau < 1:
            raise ValueError(f"tau: expected a number in [0, 1), got {tau!r}")
        super().__init__(locals())

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Return ``loss_cls`` and ``loss_box``."""
        errors = self.localization(candidates) / (2 * (1 - self.tau))
        # A diverged box makes the loss infinite, which tells; NaN would be refused as an argument.
        errors = errors.nan_to_num(nan=torch.inf, posinf=torch.inf)
        losses = alrp_loss(*candidates.entries(), errors, delta=self.delta, group=candidates.group)
        return {"loss_cls": losses.classification, "loss_box": losses.localization}


class APE(Classification):
    """APE Loss; see :func:`ranking_det.losses.ape_loss`, also for the arguments."""

    uses_continuous_labels = True

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
        super().__init__(locals())

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Return ``loss_cls``."""
        return {"loss_cls": ape_loss(*candidates.entries(), candidates.quality, **self.options)}


class CrossEntropy(Classification):
    """Softmax cross entropy; see :func:`ranking_det.losses.cross_entropy`."""

    is_sum = True
    softmax = True

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Return ``loss_cls``, a sum."""
        return {"loss_cls": cross_entropy(candidates.logits, candidates.labels)}


class Focal(Classification):
    """Focal Loss; see :func:`ranking_det.losses.focal`, also for the arguments."""

    is_sum = True
    takes_branch = True

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0) -> None:
        super().__init__(locals())

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Return ``loss_cls``, a sum."""
        loss = focal(candidates.logits, candidates.labels, candidates.positives, **self.options)
        return {"loss_cls": loss}


class QualityFocal(Classification):
    """Quality Focal Loss; see :func:`ranking_det.losses.quality_focal`, also for the arguments."""

    is_sum = True
    takes_branch = True
    uses_continuous_labels = True

    def __init__(self, beta: float = 2.0) -> None:
        super().__init__(locals())

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Return ``loss_cls``, a sum."""
        loss = quality_focal(
            candidates.logits,
            candidates.labels,
            candidates.quality,
            candidates.positives,
            **self.options,
        )
        return {"loss_cls": loss}


class Varifocal(Classification):
    """Varifocal Loss; see :func:`ranking_det.losses.varifocal`, also for the arguments."""

    is_sum = True
    takes_branch = True
    uses_continuous_labels = True

    def __init__(self, alpha: float = 0.75, gamma: float = 2.0) -> None:
        super().__init__(locals())

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Return ``loss_cls``, a sum."""
        loss = varifocal(
            candidates.logits,
            candidates.labels,
            candidates.quality,
            candidates.positives,
            **self.options,
        )
        return {"loss_cls": loss}
