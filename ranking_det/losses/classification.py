"""The contract of a criterion's classification losses, and the baselines that do not rank.

Each takes ``(candidates, labels, quality, group)`` with labels (R,) int64, a class or BACKGROUND or
IGNORE; quality (P,), the detached IoU of each positive with its object; and the workers that share
one ranking, or None. It returns a dict of scalars. A ranking loss normalises itself; a baseline
(``is_sum``) returns a sum, and the criterion divides it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist

from ranking_det.losses.candidates import Candidates
from ranking_det.losses.focal import focal
from ranking_det.losses.quality_focal import quality_focal, varifocal

_NOTHING = torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64)


def positive_rows(labels: Tensor) -> Tensor:
    """The rows (P,) whose label is a class."""
    return torch.nonzero(labels >= 0).squeeze(1)


class Classification(nn.Module):
    """Base class of the components.

    Attributes:
        is_sum: whether the scalars are sums, which the criterion divides.
        across_workers: whether ``group`` may be other than None.
    """

    is_sum = False
    across_workers = False

    def forward(
        self,
        candidates: Candidates,
        labels: Tensor,
        quality: Tensor,
        group: dist.ProcessGroup | None = None,
    ) -> dict[str, Tensor]:
        """Return the named scalars."""
        raise NotImplementedError


class Focal(Classification):
    """Focal Loss; see :func:`ranking_det.losses.focal`, also for the arguments."""

    is_sum = True

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma
        focal(*_NOTHING, alpha=alpha, gamma=gamma)  # checks the options

    def forward(
        self,
        candidates: Candidates,
        labels: Tensor,
        quality: Tensor,
        group: dist.ProcessGroup | None = None,
    ) -> dict[str, Tensor]:
        """Return ``loss_cls``, a sum."""
        return {"loss_cls": focal(candidates.logits, labels, alpha=self.alpha, gamma=self.gamma)}


class QualityFocal(Classification):
    """Quality Focal Loss; see :func:`ranking_det.losses.quality_focal`, also for the arguments."""

    is_sum = True

    def __init__(self, beta: float = 2.0) -> None:
        super().__init__()
        self.beta = beta
        quality_focal(*_NOTHING, torch.zeros(0), beta=beta)  # checks the option

    def forward(
        self,
        candidates: Candidates,
        labels: Tensor,
        quality: Tensor,
        group: dist.ProcessGroup | None = None,
    ) -> dict[str, Tensor]:
        """Return ``loss_cls``, a sum."""
        return {"loss_cls": quality_focal(candidates.logits, labels, quality, beta=self.beta)}


class Varifocal(Classification):
    """Varifocal Loss; see :func:`ranking_det.losses.varifocal`, also for the arguments."""

    is_sum = True

    def __init__(self, alpha: float = 0.75, gamma: float = 2.0) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma
        varifocal(*_NOTHING, torch.zeros(0), alpha=alpha, gamma=gamma)  # checks the options

    def forward(
        self,
        candidates: Candidates,
        labels: Tensor,
        quality: Tensor,
        group: dist.ProcessGroup | None = None,
    ) -> dict[str, Tensor]:
        """Return ``loss_cls``, a sum."""
        loss = varifocal(candidates.logits, labels, quality, alpha=self.alpha, gamma=self.gamma)
        return {"loss_cls": loss}
