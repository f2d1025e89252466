"""Learning-rate warm-up in iterations, which configs name."""

from __future__ import annotations

from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import ParamScheduler


def warm_up(
    scheduler: ParamScheduler, *, factor: float, iterations: int, max_iter: int, share: float = 1.0
) -> WarmupParamScheduler:
    """Add a linear warm-up of a number of iterations to a schedule, in a training of any length.

    It is cut to a third of a short schedule, so that the rate is reached before it decays.

    Args:
        scheduler: the schedule without the warm-up.
        factor: of its rate in the first iteration, >= 0.
        iterations: of the warm-up, >= 0.
        max_iter: of the training, >= 1.
        share: of the training, in (0, 1], that the schedule is for.
    """
    length = min(1 / 3, iterations / (share * max_iter))
    return WarmupParamScheduler(scheduler, factor, length, "linear")
