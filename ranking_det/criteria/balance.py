"""Loss balancing: weight the localization loss relative to the classification or ranking loss.

Each balance returns the factor of the localization loss, a detached scalar, without synchronizing
host and device. Its arguments are:

- ``task_loss``: the classification or ranking loss, a scalar attached to the autograd graph.
- ``loss``: the localization loss, a scalar attached to the autograd graph.
- ``candidates``: the candidates that both losses were computed from.
- ``outputs``: the raw outputs that the localization loss trains.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ranking_det.checks import check_at_least, check_integer
from ranking_det.criteria.candidates import Candidates
from ranking_det.criteria.step_counter import StepCounter
from ranking_det.losses.kernels.collectives import sum_over_workers, workers_of

SCALE = 4096.0
"""Loss scale for the gradient norms: without it float16 gradients underflow."""


def ratio_or_one(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return numerator / denominator, or 1 if either is 0, because there is nothing to balance.

    Args:
        numerator: a scalar >= 0.
        denominator: a scalar >= 0.

    Returns:
        The ratio, a scalar > 0.
    """
    is_valid = (numerator > 0) & (denominator > 0)
    return torch.where(is_valid, numerator / denominator, torch.ones_like(denominator))


class ConstantBalance(nn.Module):
    """Balance the localization loss by a constant factor.

    Args:
        weight: the factor, >= 0.

    Raises:
        ValueError: ``weight`` is out of range.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        check_at_least("weight", weight, 0.0)
        self.weight = weight

    def forward(self, task_loss: Tensor, loss: Tensor, *_: object) -> Tensor:
        """Return ``weight``.

        Args:
            task_loss: the classification or ranking loss, a scalar.
            loss: the localization loss, a scalar.
            *_: not used.

        Returns:
            The factor of the localization loss, a detached scalar.
        """
        return torch.full_like(loss, self.weight, requires_grad=False)


class ValueBalance(nn.Module):
    """Value-based self-balancing (Rank & Sort Loss): task_loss / loss.

    Both tasks then have the same loss value in every step (Oksuz et al., ICCV 2021, section S2.1).
    Unlike the paper's code, the factor is 1 if a loss is 0. Otherwise it would be NaN or 0, and a
    factor of 0 stops box regression from training.
    """

    def forward(self, task_loss: Tensor, loss: Tensor, *_: object) -> Tensor:
        """Compute the ratio of the loss values.

        Args:
            task_loss: the classification or ranking loss, a scalar.
            loss: the localization loss, a scalar.
            *_: not used.

        Returns:
            The factor of the localization loss, a detached scalar.
        """
        return ratio_or_one(task_loss.detach(), loss.detach())


class MagnitudeBalance(nn.Module):
    """Magnitude-based self-balancing: ratio of the gradients' L1 norms.

    The factor is |dL_task / d logits| / |dL_box / d box outputs|, the gradients with respect to the
    head outputs (Rank & Sort Loss, Oksuz et al., ICCV 2021, section S2.1). It is 1 if either norm
    is 0 or the losses are not attached to a graph.
    """

    def forward(
        self, task_loss: Tensor, loss: Tensor, candidates: Candidates, outputs: Tensor
    ) -> Tensor:
        """Compute the ratio of the gradient norms.

        Args:
            task_loss: the classification or ranking loss, a scalar attached to the autograd graph.
            loss: the localization loss, a scalar attached to the autograd graph.
            candidates: the candidates of the step; ``task_loss`` depends on their logits.
            outputs: the raw outputs that ``loss`` depends on.

        Returns:
            The factor of the localization loss, a detached scalar.
        """
        norms = [self._norm(task_loss, candidates.logits), self._norm(loss, outputs)]
        task, localization = sum_over_workers(torch.stack(norms), candidates.group)
        return ratio_or_one(task, localization).to(loss.dtype)

    @staticmethod
    def _norm(loss: Tensor, inputs: Tensor) -> Tensor:
        zero = torch.zeros((), dtype=torch.float32, device=inputs.device)
        if not (loss.requires_grad and inputs.requires_grad):
            return zero
        # The gradient of a mean over millions of float16 logits would underflow without the scale.
        scale = torch.full_like(loss, SCALE)
        (gradient,) = torch.autograd.grad(loss, inputs, scale, retain_graph=True, allow_unused=True)
        return zero if gradient is None else gradient.abs().sum(dtype=torch.float32) / SCALE


class HistoryBalance(nn.Module):
    """aLRP Loss's self-balancing: a factor from the mean losses of the last ``period`` steps.

    The factor is (mean box loss + mean task loss) / mean box loss (Oksuz et al., NeurIPS 2020). It
    scales the box loss up to the sum of both losses. As in the paper's code, the step that
    completes a period counts in that period and already uses the new factor.

    The state is in buffers, so a resumed run continues with it. The sums of all workers are added
    once per period. DistributedDataParallel must not broadcast buffers
    (``broadcast_buffers=False``, as in Detectron2), or the first worker's sums would replace those
    of the other workers.

    Args:
        period: the number of steps between two updates, >= 1; one epoch in the paper (3,665 steps
            of 32 images on COCO).
        initial: the factor before the first update, >= 0.

    Raises:
        ValueError: an argument is out of range.
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
        """Return the factor of the step; in training mode, record the step's losses.

        Args:
            task_loss: the ranking loss, a scalar.
            loss: the box loss, a scalar.
            *_: not used.

        Returns:
            The factor of the box loss, a detached scalar.
        """
        if not self.training:
            return self.factor.clone()
        self.sums += torch.stack([task_loss.detach(), loss.detach()]).to(self.sums.dtype)
        if (self.counter() + 1) % self.period == 0:
            task, box = sum_over_workers(self.sums.clone(), workers_of("global"))
            # One diverged step must not make the factor NaN for a whole period.
            is_valid = (box > 0) & torch.isfinite(task + box)
            self.factor.copy_(torch.where(is_valid, (task + box) / box, self.factor))
            self.sums.zero_()
        return self.factor.clone()
