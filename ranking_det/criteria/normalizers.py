"""Loss normalizers: divide a sum over candidates by a count."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ranking_det.checks import check_choice, check_integer, check_that
from ranking_det.criteria.candidates import Candidates
from ranking_det.labels import IGNORE
from ranking_det.losses.kernels.collectives import mean_over_workers, workers_of


class Normalizer(nn.Module):
    """Base class of loss normalizers.

    Attributes:
        scope: "gpu" for the count of this process, "global" for the mean count over all processes.
    """

    scope = "gpu"

    def forward(self, candidates: Candidates) -> Tensor:
        """Compute the divisor of the loss.

        Args:
            candidates: the candidates of one step.

        Returns:
            A detached scalar, > 0.

        Raises:
            NotImplementedError: a subclass must define it.
        """
        raise NotImplementedError


class PositiveCount(Normalizer):
    """Normalize by the number of positives, at least 1, as a moving average over steps.

    Detectron2's RetinaNet divides its classification and box losses by the same average, which also
    starts at 100. The state is a buffer, so a resumed run continues with the same average.

    Args:
        momentum: weight of the previous average, in [0, 1); 0 uses the count of the step alone.
        scope: "gpu" counts the positives of this process; "global" takes the mean count over all
            processes, as the code of FCOS, ATSS and PAA does, so an object has the same weight in
            every process.
        extra: added to the count, >= 0; 1 in SOLO's code.

    Raises:
        ValueError: an argument is out of range.
    """

    average: Tensor

    def __init__(self, momentum: float = 0.9, scope: str = "gpu", extra: int = 0) -> None:
        super().__init__()
        check_integer("extra", extra, 0)
        check_that(0 <= momentum < 1, "momentum", "a number in [0, 1)", momentum)
        check_choice("scope", scope, ("gpu", "global"))
        self.momentum = momentum
        self.scope = scope
        self.extra = extra
        self.register_buffer("average", torch.tensor(100.0))

    def forward(self, candidates: Candidates) -> Tensor:
        """Return the average; in training mode, update it with the step's count.

        Args:
            candidates: the candidates of one step.

        Returns:
            The average, a detached scalar, >= 1.
        """
        if not self.training and self.momentum:
            return self.average.clone()
        count = mean_over_workers(
            torch.full_like(self.average, len(candidates.positives) + self.extra),
            workers_of(self.scope),
        )
        average = self.momentum * self.average + (1 - self.momentum) * count.clamp(min=1)
        if self.training:
            self.average.copy_(average)
        return average


class CandidateCount(Normalizer):
    """Normalize by the number of candidates that are not ignored, at least 1.

    In an R-CNN these are the sampled RoIs. Detectron2's R-CNNs divide both losses of their box
    heads by this number.
    """

    def forward(self, candidates: Candidates) -> Tensor:
        """Count the candidates.

        Args:
            candidates: the candidates of one step.

        Returns:
            The count, a scalar, >= 1.
        """
        return (candidates.labels != IGNORE).sum().clamp(min=1)
