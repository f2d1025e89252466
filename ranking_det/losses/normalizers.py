"""What a loss that is a sum over candidates is divided by."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ranking_det.labels import IGNORE
from ranking_det.losses.candidates import Matches


class PositiveCount(nn.Module):
    """The number of positives, at least 1, as a moving average over the steps.

    Detectron2's RetinaNet divides both its losses by this average with the default values. The
    state is a buffer, so that a resumed run goes on with the same average.

    Args:
        momentum: weight of the past, in [0, 1); 0 takes the step's own count.
        initial: the average before the first step, > 0.
    """

    average: Tensor

    def __init__(self, momentum: float = 0.9, initial: float = 100.0) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        if not 0 < initial < float("inf"):
            raise ValueError(f"initial must be > 0, got {initial}")
        self.momentum = momentum
        self.register_buffer("average", torch.tensor(float(initial)))

    def forward(self, matches: Matches) -> Tensor:
        """Return the average, a scalar, in training with the step's count taken into it."""
        if not self.training:
            return self.average.clone()
        self.average.mul_(self.momentum).add_((1 - self.momentum) * max(len(matches.rows), 1))
        return self.average.clone()


class CandidateCount(nn.Module):
    """The number of candidates that are not ignored, at least 1: of those in the sample.

    Detectron2's R-CNNs divide both losses of their box heads by it.
    """

    def forward(self, matches: Matches) -> Tensor:
        """Return the count, a scalar."""
        return (matches.labels != IGNORE).sum().clamp(min=1)
