"""Instance weights: how much the box error of each positive counts (Oksuz et al., table S1).

Each takes ``(candidates, rows, quality)``, where ``rows`` (P,) are the positives' rows and
``quality`` (P,) their IoU, and returns detached weights (P,) >= 0, without a synchronisation of
host and device.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ranking_det.losses.candidates import Candidates


class UniformWeight(nn.Module):
    """Every positive counts the same."""

    def forward(self, candidates: Candidates, rows: Tensor, quality: Tensor) -> Tensor:
        """Return ones (P,)."""
        return torch.ones_like(quality)


class ScoreWeight(nn.Module):
    """The highest class score of the row, a probability; what Rank & Sort Loss uses."""

    def forward(self, candidates: Candidates, rows: Tensor, quality: Tensor) -> Tensor:
        """Return (P,) in (0, 1)."""
        # In the type of quality: a float16 sigmoid loses small weights.
        logits = candidates.logits.detach()[rows].to(quality.dtype)
        return logits.amax(dim=1).sigmoid()


class IoUWeight(nn.Module):
    """The IoU of the decoded box with its object."""

    def forward(self, candidates: Candidates, rows: Tensor, quality: Tensor) -> Tensor:
        """Return (P,) in [0, 1]."""
        return quality
