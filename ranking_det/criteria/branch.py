"""The loss of an IoU or centreness branch, whose score multiplies the class scores in the test."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional

from ranking_det.checks import check_at_least
from ranking_det.criteria.candidates import Candidates
from ranking_det.losses.kernels.collectives import mean_over_workers


class BranchLoss(nn.Module):
    """Binary cross entropy of the branch at the positives, averaged over them.

    Args:
        target: what the branch predicts, an instance weight in [0, 1]:
            :class:`ranking_det.criteria.CenternessWeight` (Tian et al., FCOS, ICCV 2019, eq. 3) or
            :class:`ranking_det.criteria.IoUWeight` (Kim and Lee, PAA, ECCV 2020).
        weight: factor of the loss, >= 0.
    """

    def __init__(self, target: nn.Module, weight: float = 1.0) -> None:
        super().__init__()
        check_at_least("weight", weight, 0.0)
        self.target = target
        self.weight = weight

    def forward(self, candidates: Candidates, group: dist.ProcessGroup | None = None) -> Tensor:
        """Compute the loss.

        Args:
            candidates: of one step, with ``branch_logits``.
            group: divide by the mean number of positives over its workers; None for this worker's.

        Returns:
            A scalar; zero, attached to the branch, without a positive.
        """
        branch = candidates.branch_logits
        if branch is None:
            raise ValueError("candidates.branch_logits: expected a tensor, got None")
        logits = branch[candidates.positives].float()
        target = self.target(candidates).to(logits.dtype)
        error = functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
        count = mean_over_workers(torch.full_like(error.detach(), len(logits)), group)
        return self.weight * error / count.clamp(min=1)
