"""Training schedule: iterations and learning rate from epochs, images and batch size.

The warm-up of the learning rate is in :mod:`ranking_det.solver`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

from ranking_det.user_errors import quantity


class Schedule(NamedTuple):
    """The length of a run, its periods and its learning rate; lengths are in iterations."""

    max_iter: int
    epoch: int
    """Iterations per epoch."""
    lr: float
    checkpoint_period: int
    eval_period: int
    """0 to evaluate only at the end."""


def fit_schedule(
    written: Schedule,
    *,
    epochs: float,
    num_images: int,
    batch: int,
    reference_batch: int,
    fixed: Collection[str] = (),
) -> tuple[Schedule, list[str]]:
    """Fit the schedule of a config to the training set and batch size of a run.

    The length becomes ``epochs`` of the images, and periods keep their share of it. The learning
    rate scales linearly with the batch size (Goyal et al., 2017).

    Args:
        written: the schedule in the config, for the reference batch.
        epochs: the length in epochs, > 0; with 0, the number of images seen stays the same, so the
            iterations depend only on the batch size.
        num_images: number of training images, >= 1.
        batch: images per iteration over all processes, >= 1.
        reference_batch: the batch size for which the schedule was written; 0 for ``batch``.
        fixed: fields that the user has set and that stay unchanged: "max_iter", "lr",
            "checkpoint_period", "eval_period".

    Returns:
        The fitted schedule, and a log line for each change.
    """
    ratio = batch / reference_batch if reference_batch else 1.0
    epoch = math.ceil(num_images / batch)
    length = epochs * epoch if epochs else written.max_iter / ratio
    max_iter = written.max_iter if "max_iter" in fixed else max(1, round(length))
    # If the user sets the length, the periods of the config stay.
    share = 1.0 if "max_iter" in fixed else max_iter / written.max_iter
    fitted = Schedule(
        max_iter,
        epoch,
        written.lr if "lr" in fixed else written.lr * ratio,
        max(1, round(written.checkpoint_period * share)),
        max(1, round(written.eval_period * share)) if written.eval_period else 0,
    )
    fitted = fitted._replace(**{name: getattr(written, name) for name in fixed})
    lines = [
        f"{name}: {before:.6g} -> {after:.6g}"
        for name, before, after in zip(Schedule._fields, written, fitted, strict=True)
        if before != after and name != "epoch"
    ]
    scale = f" ({ratio:.6g} x the reference batch of {reference_batch})" if ratio != 1 else ""
    images = quantity(num_images, "image", "images")
    title = (
        f"Schedule adapted to {images} in batches of {batch}{scale}: "
        f"{quantity(epoch, 'iteration', 'iterations')} per epoch, {max_iter / epoch:.4g} epochs"
    )
    return fitted, [title, *lines] if lines else []
