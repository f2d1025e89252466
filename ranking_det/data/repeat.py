"""More of the images that have rare classes (Gupta et al., LVIS, CVPR 2019, appendix B.2)."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ranking_det.user_errors import UserError

logger = logging.getLogger(__name__)


def repeat_factors(dataset: Sequence[dict[str, Any]], threshold: float) -> list[float]:
    """How often each image is to be seen in an epoch.

    The factor of a class is max(1, sqrt(threshold / f)), with f the share of the images that have
    it; that of an image is the highest of its classes.

    Args:
        dataset: the images, as Detectron2's dicts.
        threshold: the share of the images below which a class is rare, >= 0.

    Returns:
        A number of at least 1 per image; 1 for an image without objects.
    """
    classes = [{a["category_id"] for a in image["annotations"]} for image in dataset]
    counts = Counter(k for present in classes for k in present)
    # Rounded, or a factor of exactly 2 would now and then be a little more.
    of_class = {
        k: max(1.0, round(math.sqrt(threshold * len(dataset) / count), 9))
        for k, count in counts.items()
    }
    return [max((of_class[k] for k in present), default=1.0) for present in classes]


def repeat_rare(
    dataset: Sequence[dict[str, Any]], threshold: float = 0.001
) -> list[dict[str, Any]]:
    """Repeat the images that have rare classes, each a whole number of times.

    Factors are rounded up, as Rank & Sort Loss has it on LVIS, and not at random in each epoch, as
    in Detectron2's RepeatFactorTrainingSampler: an epoch is longer, and is a list like any other,
    from which schedules and exact resuming follow.

    Args:
        dataset: the images, as Detectron2's dicts.
        threshold: see :func:`repeat_factors`.

    Returns:
        The images in their order, repeated ones one after the other: the same objects, no copies.

    Raises:
        UserError: a threshold below 0, or images that have not been annotated.

    >>> common, rare = {"category_id": 0}, {"category_id": 1}
    >>> images = [{"annotations": [common]}] * 8 + [{"annotations": [common, rare]}]
    >>> len(repeat_rare(images, threshold=0.25))  # sqrt(9/4 / 1) = 1.5, rounded up
    10
    """
    if threshold < 0:
        raise UserError(f"threshold must be >= 0, the share of a rare class, got {threshold!r}")
    if any("annotations" not in image for image in dataset):
        raise UserError("repeat_rare needs the annotations of every image, to count the classes")
    factors = repeat_factors(dataset, threshold)
    repeated: list[dict[str, Any]] = []
    for image, factor in zip(dataset, factors, strict=True):
        repeated += [image] * math.ceil(factor)
    message = "%d images, those of rare classes repeated: %d an epoch"
    logger.info(message, len(dataset), len(repeated))
    return repeated
