"""How many boxes pass the score threshold in an evaluation, and a warning if it cannot be right.

The scores of ranking losses have no scale of their own: the same threshold that suits focal loss
can delete every detection, or none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from detectron2.utils import comm
from torch import Tensor

logger = logging.getLogger(__name__)

MIN_DETECTIONS = 1.0
"""Detections per image below which the threshold is too high."""

MAX_SHARE = 0.3
"""Share of all boxes above which the threshold is too low."""


@dataclass
class _Counts:
    """Of one worker; ``passing`` stays on the device until the end."""

    images: int = 0
    detections: int = 0
    boxes: int = 0
    passing: Tensor | int = 0
    name: str = ""
    thresh: float = 0.0


_counts: ContextVar[_Counts | None] = ContextVar("score_counts", default=None)


@contextmanager
def watch_scores() -> Iterator[None]:
    """Within it, count what the inference of any model keeps; warn once at the end.

    The warning comes when fewer than 1 detection an image is left, or when more than 30 % of all
    boxes pass the score threshold: those of all levels, before top-k and suppression, a box by its
    best class. A threshold of 0 says that there is to be none, so that all boxes may pass it.

    Enter it on all workers, whose counts are added up; the main one warns. Models that count
    nothing (see :func:`count_boxes`) get no warning.
    """
    counts = _Counts()
    token = _counts.set(counts)
    try:
        yield
    finally:
        _counts.reset(token)
    _warn(counts)


def count_boxes(scores: Tensor, thresh: float, name: str) -> None:
    """Count boxes that are about to be compared with a threshold; costs nothing unless watched.

    Args:
        scores: (n, K), of n boxes in K classes.
        thresh: what passes is greater than it.
        name: the threshold as users write it.
    """
    counts = _counts.get()
    if counts is not None:
        counts.name, counts.thresh = name, thresh
        counts.boxes += len(scores)
        counts.passing = counts.passing + (scores.amax(dim=1) > thresh).sum()


def count_detections(num_detections: int) -> None:
    """Count an image and what is left of its detections in the end."""
    counts = _counts.get()
    if counts is not None:
        counts.images += 1
        counts.detections += num_detections


def _warn(local: _Counts) -> None:
    local.passing = int(local.passing)
    # A worker without images knows neither the threshold nor its device.
    workers = [counts for counts in comm.gather(local) if counts.name and counts.images]
    if not workers:
        return
    name, thresh = workers[0].name, workers[0].thresh
    images = sum(counts.images for counts in workers)
    detections = sum(counts.detections for counts in workers)
    share = sum(int(counts.passing) for counts in workers) / max(sum(c.boxes for c in workers), 1)
    if detections < MIN_DETECTIONS * images:
        logger.warning(
            "%s is %g, which leaves only %.2f detections an image (%d images; %.3g %% of all boxes "
            "pass it). %s",
            *(name, thresh, detections / images, images, 100 * share),
            "Lower it: the scores of ranking losses have no scale of their own, and after a short "
            "training 0 is right."
            if thresh > 0
            else "No threshold can be lower: the scores or boxes are not finite, or all scores 0.",
        )
    elif thresh > 0 and share > MAX_SHARE:
        logger.warning(
            "%s is %g, which %.0f %% of all boxes pass (%d images). Raise it: so many boxes make "
            "the suppression of duplicates slow and cannot all be objects; or set it to 0, if only "
            "the best of each image are to be kept, whatever their scores.",
            *(name, thresh, 100 * share, images),
        )
