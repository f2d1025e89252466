"""What a loss that is a sum over candidates is divided by."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ranking_det.checks import check_choice, check_that
from ranking_det.criteria.candidates import Candidates
from ranking_det.labels import IGNORE
from ranking_det.losses.kernels.collectives import mean_over_workers, workers_of


class Normalizer(nn.Module):
    """Base class.

    Attributes:
        scope: "gpu" to count in this process, "global" for the mean count over all processes.
    """

    scope = "gpu"

    def forward(self, candidates: Candidates) -> Tensor:
        """Return the scalar that divides."""
        raise NotImplementedError


class PositiveCount(Normalizer):
    """The number of positives, at least 1, as a moving average over the steps.

    Detectron2's RetinaNet divides both its losses by this average, which starts at 100 there too.
    The state is a buffer, so that a resumed run goes on with the same average.

    Args:
        momentum: weight of the past, in [0, 1); 0 takes the step's own count.
        scope: "gpu" counts the positives of this process; "global" takes their mean over all
            processes, as the codes of FCOS, ATSS and PAA do, so that an object weighs the same on
            whichever process it is.
    """

    average: Tensor

    def __init__(self, momentum: float = 0.9, scope: str = "gpu") -> None:
        super().__init__()
        check_that(0 <= momentum < 1, "momentum", "a number in [0, 1)", momentum)
        check_choice("scope", scope, ("gpu", "global"))
        self.momentum = momentum
        self.scope = scope
        self.register_buffer("average", torch.tensor(100.0))

    def forward(self, candidates: Candidates) -> Tensor:
        """Return the average, a scalar, in training with the step's count taken into it."""
        if not self.training and self.momentum:
            return self.average.clone()
        count = mean_over_workers(
            torch.full_like(self.average, len(candidates.positives)), workers_of(self.scope)
        )
        average = self.momentum * self.average + (1 - self.momentum) * count.clamp(min=1)
        if self.training:
            self.average.copy_(average)
        return average


class CandidateCount(Normalizer):
    """The number of candidates that are not ignored, at least 1: of those in the sample.

    Detectron2's R-CNNs divide both losses of their box heads by it.
    """

    def forward(self, candidates: Candidates) -> Tensor:
        """Return the count, a scalar."""
        return (candidates.labels != IGNORE).sum().clamp(min=1)
