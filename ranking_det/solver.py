"""Learning-rate warm-up with a length in iterations."""

from __future__ import annotations

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
