"""Task balance: the factor of a localisation loss beside the classification or ranking loss.

Each takes ``(task_loss, loss, candidates, outputs)``: the classification or ranking loss and the
localisation loss, scalars with their graphs, what they were computed from, and the raw outputs that
the localisation loss trains. It returns a detached scalar, without a synchronisation of host and
device.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ranking_det.checks import check_at_least, check_integer
from ranking_det.criteria.candidates import Candidates
from ranking_det.criteria.step_counter import StepCounter
from ranking_det.losses.kernels.collectives import sum_over_workers, workers_of

SCALE = 4096.0


def ratio_or_one(above: Tensor, below: Tensor) -> Tensor:
    """``above / below``, or 1 where either is 0 and one task has nothing to weigh."""
    usable = (above > 0) & (below > 0)
    return torch.where(usable, above / below, torch.ones_like(below))


class ConstantBalance(nn.Module):
    """A fixed factor.

    Args:
        weight: the factor, >= 0.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        check_at_least("weight", weight, 0.0)
        self.weight = weight

    def forward(self, task_loss: Tensor, loss: Tensor, *_: object) -> Tensor:
        """Return ``weight``."""
        return torch.full_like(loss, self.weight, requires_grad=False)


class ValueBalance(nn.Module):
    """task_loss / loss, so that both tasks weigh the same in every step.

    The value-based self-balance of Rank & Sort Loss (Oksuz et al., section S2.1). Unlike the
    paper's code, it is 1 where a loss is 0, which would otherwise give NaN or stop the boxes.
    """

    def forward(self, task_loss: Tensor, loss: Tensor, *_: object) -> Tensor:
        """Return the ratio."""
        return ratio_or_one(task_loss.detach(), loss.detach())


class MagnitudeBalance(nn.Module):
    """The ratio of the L1 norms of the two losses' gradients at the head's outputs.

    |dL_task / d logits| / |dL_box / d box outputs| (Oksuz et al., section S2.1); 1 where either is
    0, or where nothing has a graph.
    """

    def forward(
        self, task_loss: Tensor, loss: Tensor, candidates: Candidates, outputs: Tensor
    ) -> Tensor:
        """Return the ratio."""
        norms = [self._norm(task_loss, candidates.logits), self._norm(loss, outputs)]
        task, localization = sum_over_workers(torch.stack(norms), candidates.group)
        return ratio_or_one(task, localization).to(loss.dtype)

    @staticmethod
    def _norm(loss: Tensor, at: Tensor) -> Tensor:
        zero = torch.zeros((), dtype=torch.float32, device=at.device)
        if not (loss.requires_grad and at.requires_grad):
            return zero
        # Scaled, as the entries of a mean over millions of float16 logits are below its range.
        scale = torch.full_like(loss, SCALE)
        (gradient,) = torch.autograd.grad(loss, at, scale, retain_graph=True, allow_unused=True)
        return zero if gradient is None else gradient.abs().sum(dtype=torch.float32) / SCALE


class HistoryBalance(nn.Module):
    """(mean box loss + mean task loss) / mean box loss over the last period of steps.

    The self-balance of aLRP Loss (Oksuz et al., NeurIPS 2020): the box loss, bounded by the same
    range as the ranking loss, is promoted to the size of both. As in the paper's code, the step
    that completes a period is part of it and has the new factor. The state is in buffers, so a
    resumed run goes on with it; the sums of all workers are added up once a period. Unlike
    DistributedDataParallel's default, buffers must not be broadcast (``broadcast_buffers=False``,
    as Detectron2 has it), or the first worker's sums would replace the others'.

    Args:
        period: steps between two updates, >= 1; the paper takes an epoch (3,665 steps of 32 images
            on COCO).
        initial: the factor until the last step of the first period, >= 0.
    """

    sums: Tensor
    factor: Tensor

    def __init__(self, period: int, initial: float = 50.0) -> None:
        super().__init__()
        check_integer("period", period, 1)
        check_at_least("initial", initial, 0.0)
        self.period = period
        self.register_buffer("sums", torch.zeros(2))
        self.register_buffer("factor", torch.tensor(float(initial)))
        self.counter = StepCounter()

    def forward(self, task_loss: Tensor, loss: Tensor, *_: object) -> Tensor:
        """Return the factor of the step; in training, take the step into account."""
        if not self.training:
            return self.factor.clone()
        self.sums += torch.stack([task_loss.detach(), loss.detach()]).to(self.sums.dtype)
        if (self.counter() + 1) % self.period == 0:
            task, box = sum_over_workers(self.sums.clone(), workers_of("global"))
            # A step that diverged must not spoil a whole period.
            usable = (box > 0) & torch.isfinite(task + box)
            self.factor.copy_(torch.where(usable, (task + box) / box, self.factor))
            self.sums.zero_()
        return self.factor.clone()
