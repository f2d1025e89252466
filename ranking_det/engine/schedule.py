"""How long a training is: from epochs, images and batch to iterations and learning rate.

The warm-up of the rate is in :mod:`ranking_det.solver`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple


class Schedule(NamedTuple):
    """A training's length, and what depends on it. Iterations, unless said otherwise."""

    max_iter: int
    epoch: int
    """Iterations of an epoch."""
    lr: float
    checkpoint_period: int
    eval_period: int
    """0 for an evaluation at the end only."""


def fit_schedule(
    written: Schedule,
    *,
    epochs: float,
    num_images: int,
    batch: int,
    reference_batch: int,
    fixed: Collection[str] = (),
) -> tuple[Schedule, list[str]]:
    """Fit the schedule that a config has written for its own data and batch to those at hand.

    The length is ``epochs`` of the images; periods keep their share of the whole. The learning
    rate is scaled in proportion to the batch (Goyal et al., 2017).

    Args:
        written: what the config says, at its reference batch.
        epochs: the length, > 0; 0 keeps the number of images seen: iterations are then scaled by
            the batch alone.
        num_images: of the training set, >= 1.
        batch: images of an iteration over all processes, >= 1.
        reference_batch: that of the written schedule; 0 for ``batch``.
        fixed: fields that the user has set and that stay: "max_iter", "lr", "checkpoint_period",
            "eval_period".

    Returns:
        The schedule, and a line for every change, to be printed.
    """
    ratio = batch / reference_batch if reference_batch else 1.0
    epoch = math.ceil(num_images / batch)
    length = epochs * epoch if epochs else written.max_iter / ratio
    max_iter = written.max_iter if "max_iter" in fixed else max(1, round(length))
    # A length of the user's own does not move the periods of the config.
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
    scale = f", {ratio:.6g} x the batch of {reference_batch} that it is for" if ratio != 1 else ""
    title = (
        f"The schedule fits {num_images} images in batches of {batch}{scale}: "
        f"{epoch} iterations an epoch, {max_iter / epoch:.4g} epochs"
    )
    return fitted, [title, *lines] if lines else []
