"""What a loss that is a sum over candidates is divided by."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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

    def forward(self, num_positives: int) -> Tensor:
        """Return the average, a scalar, in training with the step's count taken into it."""
        if not self.training:
            return self.average.clone()
        self.average.mul_(self.momentum).add_((1 - self.momentum) * max(num_positives, 1))
        return self.average.clone()
