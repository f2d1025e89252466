"""More of the images that have rare classes (Gupta et al., LVIS, CVPR 2019, appendix B.2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from detectron2.data.samplers import RepeatFactorTrainingSampler

from ranking_det.user_errors import UserError

logger = logging.getLogger(__name__)

Record = dict[str, Any]


def repeat_rare(dataset: Sequence[Record], threshold: float = 0.001) -> list[Record]:
    """Repeat the images that have rare classes, each a whole number of times.

    The factor of a class is max(1, sqrt(threshold / f)), with f the share of the images that have
    it; that of an image is the highest of its classes. Factors are rounded up, as Rank & Sort Loss
    has it on LVIS, and not at random in each epoch, as in Detectron2's RepeatFactorTrainingSampler:
    an epoch is longer, and is a list like any other, from which schedules and exact resuming
    follow.

    Args:
        dataset: the images, as Detectron2's dicts.
        threshold: the share of the images below which a class is rare, >= 0.

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
    # In float32, so that a factor of exactly 2 is never a little more.
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dataset, threshold)
    times = factors.ceil().int().tolist()
    repeated = [image for image, count in zip(dataset, times, strict=True) for _ in range(count)]
    message = "%d images, those of rare classes repeated: %d an epoch"
    logger.info(message, len(dataset), len(repeated))
    return repeated
