"""Repeat factor sampling: oversample images with rare classes (LVIS, CVPR 2019, appendix B.2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from detectron2.data.samplers import RepeatFactorTrainingSampler

from ranking_det.user_errors import UserError

logger = logging.getLogger(__name__)

Record = dict[str, Any]


def repeat_rare(dataset: Sequence[Record], threshold: float = 0.001) -> list[Record]:
    """Repeat images with rare classes (repeat factor sampling), each a whole number of times.

    The repeat factor of a class is max(1, sqrt(threshold / f)), where f is the share of the images
    that have the class. The factor of an image is the highest of its classes (A. Gupta, P. Dollár,
    R. Girshick: LVIS, CVPR 2019, appendix B.2).

    Unlike Detectron2's RepeatFactorTrainingSampler, which rounds factors at random in each epoch,
    this rounds them up, as the experiments of Rank & Sort Loss on LVIS do. An epoch is then a
    longer list, and schedules and exact resuming work as for any other data set.

    Args:
        dataset: the images, as Detectron2's dataset dicts.
        threshold: the share of the images below which a class is rare, >= 0.

    Returns:
        The images in their order, with the repeats of an image next to each other. They are the
        same objects, not copies.

    Raises:
        UserError: the threshold is below 0, or images have no annotations.

    >>> common, rare = {"category_id": 0}, {"category_id": 1}
    >>> images = [{"annotations": [common]}] * 8 + [{"annotations": [common, rare]}]
    >>> len(repeat_rare(images, threshold=0.25))  # sqrt(9/4 / 1) = 1.5, rounded up
    10
    """
    if threshold < 0:
        expected = "the share of a rare class, at least 0"
        raise UserError(f"threshold: expected {expected}, got {threshold!r}")
    if any("annotations" not in image for image in dataset):
        raise UserError("repeat_rare needs the annotations of every image to count the classes")
    # These are float32, so a factor of exactly 2 is never slightly more and rounded up to 3.
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dataset, threshold)
    times = factors.ceil().int().tolist()
    repeated = [image for image, count in zip(dataset, times, strict=True) for _ in range(count)]
    message = "%d images; %d per epoch, because images with rare classes are repeated"
    logger.info(message, len(dataset), len(repeated))
    return repeated
