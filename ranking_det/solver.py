"""Learning-rate schedules: warm-up with a length in iterations, and steps once per epoch."""

from __future__ import annotations

import math

from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import ParamScheduler


def warm_up(
    scheduler: ParamScheduler, *, factor: float, iterations: int, max_iter: int, share: float = 1.0
) -> WarmupParamScheduler:
    """Add a linear learning-rate warm-up to a schedule.

    The warm-up takes at most a third of the schedule, so the learning rate reaches its full value
    before it decays, even in a short run.

    Args:
        scheduler: the schedule without the warm-up.
        factor: factor of the learning rate in the first iteration, >= 0.
        iterations: length of the warm-up, >= 0.
        max_iter: length of the run in iterations, >= 1.
        share: fraction of the run that the schedule covers, in (0, 1].

    Returns:
        The schedule with the warm-up.

    Raises:
        ValueError: ``iterations`` is negative.
    """
    if iterations < 0:
        raise ValueError(f"iterations: expected at least 0, got {iterations}")
    length = min(1 / 3, iterations / (share * max_iter))
    return WarmupParamScheduler(scheduler, factor, length, "linear")


class PerEpoch(ParamScheduler):
    """Update a learning-rate schedule only at the start of each epoch.

    Within an epoch, the learning rate is that of its first iteration.

    Args:
        scheduler: a schedule, such as fvcore's ``CosineParamScheduler``.
        iterations_per_epoch: length of an epoch, >= 1.
        max_iter: length of the run in iterations, >= 1.

    Raises:
        ValueError: a length is below 1.
    """

    def __init__(
        self, scheduler: ParamScheduler, *, iterations_per_epoch: int, max_iter: int
    ) -> None:
        for name, value in (
            ("iterations_per_epoch", iterations_per_epoch),
            ("max_iter", max_iter),
        ):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.scheduler = scheduler
        self.iterations_per_epoch, self.max_iter = iterations_per_epoch, max_iter

    def __call__(self, where: float) -> float:
        """Return the factor of the learning rate.

        Args:
            where: share of the run, in [0, 1].

        Returns:
            The factor at the start of the epoch.
        """
        # ``where`` is iteration / max_iter, rounded.
        iteration = math.floor(where * self.max_iter + 1e-6)
        start = iteration // self.iterations_per_epoch * self.iterations_per_epoch
        factor: float = self.scheduler(start / self.max_iter)
        return factor
