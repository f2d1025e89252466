"""Task balance: the factor of the box loss beside the classification or ranking loss.

Each takes ``(task_loss, box_loss)``, two detached scalars, and returns a detached scalar, without a
synchronisation of host and device.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConstantBalance(nn.Module):
    """A fixed factor.

    Args:
        weight: the factor, >= 0.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight must be >= 0, got {weight}")
        self.weight = weight

    def forward(self, task_loss: Tensor, box_loss: Tensor) -> Tensor:
        """Return ``weight``."""
        return torch.full_like(box_loss, self.weight)


class ValueBalance(nn.Module):
    """task_loss / box_loss, so that both tasks weigh the same in every step.

    The value-based self-balance of Rank & Sort Loss (Oksuz et al., section S2.1). Unlike the
    paper's code, it is 1 where the box loss is 0, which would otherwise give NaN.
    """

    def forward(self, task_loss: Tensor, box_loss: Tensor) -> Tensor:
        """Return the ratio, or 1 where ``box_loss`` is 0."""
        return torch.where(box_loss > 0, task_loss / box_loss, torch.ones_like(box_loss))
