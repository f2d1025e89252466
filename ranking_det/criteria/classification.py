"""The contract of a criterion's classification losses, and the baselines that do not rank.

Each takes the :class:`Matches` of a step and returns a dict of scalars. A ranking loss normalises
itself; a baseline (``is_sum``) returns a sum, and the criterion divides it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ranking_det.criteria.candidates import Matches
from ranking_det.losses.cross_entropy import cross_entropy
from ranking_det.losses.focal import focal
from ranking_det.losses.quality_focal import quality_focal, varifocal

_NOTHING = torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64)


class Classification(nn.Module):
    """Base class of the components.

    Attributes:
        is_sum: whether the scalars are sums, which the criterion divides.
        across_workers: whether ``group`` may be other than None.
        takes_branch: whether the test may multiply the scores by those of an IoU or centreness
            branch. Not if the loss itself puts them in the order that the test needs.
        uses_quality: whether the positives have continuous labels, in the matches' ``quality``.
        softmax: whether the scores are the softmax over the classes and a background of logit 0,
            and not a sigmoid of each class.
    """

    is_sum = False
    across_workers = False
    takes_branch = False
    uses_quality = False
    softmax = False

    def forward(self, matches: Matches) -> dict[str, Tensor]:
        """Return the named scalars."""
        raise NotImplementedError

    def over_images(self, matches: Matches) -> dict[str, Tensor]:
        """Return the named scalars of each image alone, the mean over images with a positive."""
        parts = [part for part in matches.images() if len(part.rows)] or [matches]
        losses = [self(part) for part in parts]
        return {name: torch.stack([loss[name] for loss in losses]).mean() for name in losses[0]}


class CrossEntropy(Classification):
    """Softmax cross entropy; see :func:`ranking_det.losses.cross_entropy`."""

    is_sum = True
    softmax = True

    def forward(self, matches: Matches) -> dict[str, Tensor]:
        """Return ``loss_cls``, a sum."""
        return {"loss_cls": cross_entropy(matches.candidates.logits, matches.labels)}


class Focal(Classification):
    """Focal Loss; see :func:`ranking_det.losses.focal`, also for the arguments."""

    is_sum = True
    takes_branch = True

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma
        focal(*_NOTHING, alpha=alpha, gamma=gamma)  # checks the options

    def forward(self, matches: Matches) -> dict[str, Tensor]:
        """Return ``loss_cls``, a sum."""
        logits = matches.candidates.logits
        return {"loss_cls": focal(logits, matches.labels, alpha=self.alpha, gamma=self.gamma)}


class QualityFocal(Classification):
    """Quality Focal Loss; see :func:`ranking_det.losses.quality_focal`, also for the arguments."""

    is_sum = True
    takes_branch = True
    uses_quality = True

    def __init__(self, beta: float = 2.0) -> None:
        super().__init__()
        self.beta = beta
        quality_focal(*_NOTHING, torch.zeros(0), beta=beta)  # checks the option

    def forward(self, matches: Matches) -> dict[str, Tensor]:
        """Return ``loss_cls``, a sum."""
        logits, quality = matches.candidates.logits, matches.quality
        return {"loss_cls": quality_focal(logits, matches.labels, quality, beta=self.beta)}


class Varifocal(Classification):
    """Varifocal Loss; see :func:`ranking_det.losses.varifocal`, also for the arguments."""

    is_sum = True
    takes_branch = True
    uses_quality = True

    def __init__(self, alpha: float = 0.75, gamma: float = 2.0) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma
        varifocal(*_NOTHING, torch.zeros(0), alpha=alpha, gamma=gamma)  # checks the options

    def forward(self, matches: Matches) -> dict[str, Tensor]:
        """Return ``loss_cls``, a sum."""
        logits, quality = matches.candidates.logits, matches.quality
        loss = varifocal(logits, matches.labels, quality, alpha=self.alpha, gamma=self.gamma)
        return {"loss_cls": loss}
