"""Warn after an evaluation if the score threshold keeps hardly any boxes, or too many.

The scores of ranking losses have no fixed scale: a threshold that suits focal loss can remove every
detection, or none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from detectron2.utils import comm
from torch import Tensor

from ranking_det.user_errors import quantity

logger = logging.getLogger(__name__)

THRESHOLD_KEYS = (
    "model.inference.score_thresh",
    "model.roi_heads.box_predictor.test_score_thresh",
)
"""The config keys of the score threshold of dense detectors and of R-CNNs."""

MIN_DETECTIONS = 1.0
"""Detections per image below which the threshold is too high."""

MAX_SHARE = 0.3
"""Share of all boxes above which the threshold is too low."""


@dataclass
class _Counts:
    """Box and detection counts of one worker; ``passing`` stays on the device until the end."""

    images: int = 0
    detections: int = 0
    boxes: int = 0
    passing: Tensor | int = 0
    name: str = ""
    thresh: float = 0.0


_counts: ContextVar[_Counts | None] = ContextVar("score_counts", default=None)


@contextmanager
def watch_scores() -> Iterator[None]:
    """Count the boxes that pass the score threshold of any model; warn once on exit.

    It warns if there is less than 1 detection per image, or if more than 30% of all boxes pass
    the threshold. Boxes of all levels are counted, before top-k and suppression, each by its best
    class. A threshold of 0 means no threshold, so all boxes may pass it.

    Enter it on all workers: their counts are added up, and the main process warns. Models that
    count nothing (see :func:`count_boxes`) get no warning.
    """
    counts = _Counts()
    token = _counts.set(counts)
    try:
        yield
    finally:
        _counts.reset(token)
    _warn(counts)


def count_boxes(scores: Tensor, thresh: float, name: str) -> None:
    """Count the boxes above a score threshold; does nothing outside :func:`watch_scores`.

    Args:
        scores: (n, K), scores of n boxes in K classes.
        thresh: the threshold; greater scores pass.
        name: the threshold's name in configs.
    """
    counts = _counts.get()
    if counts is not None:
        counts.name, counts.thresh = name, thresh
        counts.boxes += len(scores)
        counts.passing = counts.passing + (scores.amax(dim=1) > thresh).sum()


def count_detections(num_detections: int) -> None:
    """Count an image and its final detections; does nothing outside :func:`watch_scores`.

    Args:
        num_detections: detections of the image after suppression, >= 0.
    """
    counts = _counts.get()
    if counts is not None:
        counts.images += 1
        counts.detections += num_detections


def _warn(local: _Counts) -> None:
    local.passing = int(local.passing)
    # A worker without images does not know the threshold.
    workers = [counts for counts in comm.gather(local) if counts.name and counts.images]
    if not workers:
        return
    name, thresh = workers[0].name, workers[0].thresh
    images = sum(counts.images for counts in workers)
    detections = sum(counts.detections for counts in workers)
    image_count = quantity(images, "image", "images")
    share = sum(int(counts.passing) for counts in workers) / max(sum(c.boxes for c in workers), 1)
    if detections < MIN_DETECTIONS * images:
        logger.warning(
            "%s is %g, which leaves only %.2f detections per image (%s; %.3g%% of all "
            "boxes pass it). %s",
            *(name, thresh, detections / images, image_count, 100 * share),
            "Lower it: the scores of ranking losses have no fixed scale, and 0 is right after a "
            "short run."
            if thresh > 0
            else "It cannot be lower: the scores or boxes are not finite, or all scores are 0.",
        )
    elif thresh > 0 and share > MAX_SHARE:
        logger.warning(
            "%s is %g, which %.0f%% of all boxes pass (%s). Raise it: so many boxes cannot "
            "all be objects, and they make NMS slow. Or set it to 0 to keep the best boxes of each "
            "image, whatever their scores.",
            *(name, thresh, 100 * share, image_count),
        )
