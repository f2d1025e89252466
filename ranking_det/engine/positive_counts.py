"""Count the objects that a config's anchors and assigner leave without a positive, by input size.

Nothing is trained to find an object without a positive. The positives are those of ``--preview``:
of an assigner that needs predictions, those of the first training step.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn import functional

from ranking_det.data.images import UnreadableImageError
from ranking_det.data.mapper import BoxMapper, DatasetMapper, read_array
from ranking_det.data.object_statistics import (
    SCALES,
    SIZES,
    Bin,
    ImageObjects,
    box_sizes,
    histogram,
)
from ranking_det.engine.run_config import RunConfig
from ranking_det.modeling.interface import interface_of
from ranking_det.user_errors import UserError

MAX_IMAGES = 100
"""Default maximum number of images that are looked at."""

MAX_SECONDS = 120.0
"""Default time after which no further image is looked at."""


@dataclass(frozen=True)
class MissedObjects:
    """Objects without a positive at one input size.

    Attributes:
        scale: the input size over that of the config.
        width: the median width of the inputs, in pixels.
        height: the median height of the inputs, in pixels.
        missed: number of objects without a positive.
        missed_by_size: the same by the size of the box at the config's input size, for the bins of
            :data:`SIZES`.
    """

    scale: float
    width: int
    height: int
    missed: int
    missed_by_size: list[int]


@dataclass(frozen=True)
class PositiveCounts:
    """Objects without a positive, for several input sizes.

    Attributes:
        images: number of images that were looked at.
        of_images: number of images with objects.
        objects: number of objects in them.
        by_size: the same by the size of the box at the config's input size.
        inputs: the counts by input size.
    """

    images: int
    of_images: int
    objects: int
    by_size: list[Bin]
    inputs: list[MissedObjects]


class _Input(NamedTuple):
    """An image as the config's test mapper resizes it."""

    size: tuple[int, int]  # (height, width)
    boxes: np.ndarray
    pixels: Tensor | None


def resizing_of(config: RunConfig) -> tuple[T.AugmentationList, str]:
    """Return the augmentations of a config's test mapper, and the order of the channels.

    Args:
        config: the config.

    Raises:
        UserError: the mapper is neither Detectron2's nor :class:`BoxMapper`.
    """
    mapper = config.mapper("test").mapper
    if not isinstance(mapper, (DatasetMapper, BoxMapper)):
        kind = type(mapper).__name__
        raise UserError(f"dataloader.test.mapper: expected DatasetMapper or BoxMapper, got {kind}")
    return mapper.augmentations, mapper.image_format


def input_sizes(config: RunConfig, images: Sequence[ImageObjects]) -> np.ndarray:
    """Return the sizes to which a config's test mapper resizes images.

    Args:
        config: the config.
        images: the N images.

    Returns:
        (N, 2) width and height in pixels.

    Raises:
        UserError: see :func:`resizing_of`.
    """
    augmentations, _ = resizing_of(config)
    # A set has few different sizes.
    sizes = {image.size: (0, 0) for image in images}
    for size in sizes:
        height, width = _resize(augmentations, _blank(size), np.zeros((0, 4))).size
        sizes[size] = width, height
    return np.array([sizes[image.size] for image in images])


def count_positives(
    config: RunConfig,
    model: nn.Module,
    images: Sequence[ImageObjects],
    *,
    max_images: int = MAX_IMAGES,
    max_seconds: float = MAX_SECONDS,
) -> PositiveCounts | None:
    """Count the objects without a positive at the config's test size and at multiples of it.

    Args:
        config: the config, whose test mapper resizes the images.
        model: its model in training mode.
        images: the images; those without objects are skipped. A sample of them is taken, in an
            order that is always the same.
        max_images: maximum number of images, >= 1.
        max_seconds: seconds after which no further image is taken; one always is.

    Returns:
        The counts; None if the model does not report its positives, or no image could be used.

    Raises:
        UserError: see :func:`resizing_of`.
    """
    augmentations, image_format = resizing_of(config)
    needs_pixels = interface_of(model).positives_need_images
    rows = [index for index, image in enumerate(images) if len(image.boxes)]
    rows = np.random.default_rng(0).permutation(rows).tolist()
    sizes: list[np.ndarray] = []  # of the boxes of an image at the config's input size
    missed: list[np.ndarray] = []  # (scales, G) bool
    shapes = []
    end = time.monotonic() + max_seconds
    for image in (images[row] for row in rows):
        if len(missed) == max_images or (missed and time.monotonic() > end):
            break
        pixels = _read(image, image_format) if needs_pixels else _blank(image.size)
        if pixels is None:
            continue
        resized = _resize(augmentations, pixels, image.boxes, keep_pixels=needs_pixels)
        found = [_find_missed(model, resized, image.classes, scale) for scale in SCALES]
        if any(part is None for part in found):
            return None
        shapes.append(resized.size)
        sizes.append(box_sizes(resized.boxes))
        missed.append(np.stack(found))
    if not missed:
        return None
    height, width = np.median(shapes, axis=0)
    all_sizes, all_missed = np.concatenate(sizes), np.concatenate(missed, axis=1)
    inputs = [
        MissedObjects(
            scale,
            round(width * scale),
            round(height * scale),
            int(row.sum()),
            [part.count for part in histogram(all_sizes[row], SIZES)],
        )
        for scale, row in zip(SCALES, all_missed, strict=True)
    ]
    return PositiveCounts(
        len(missed), len(rows), len(all_sizes), histogram(all_sizes, SIZES), inputs
    )


def _blank(size: tuple[int, int]) -> np.ndarray:
    return np.zeros((size[1], size[0], 3), np.uint8)


def _read(image: ImageObjects, image_format: str) -> np.ndarray | None:
    """Read the pixels of an image; None if it is missing or unreadable."""
    if image.path is None:
        return None
    try:
        return read_array(image.path, image_format, image.size)
    except (UnreadableImageError, OSError):
        return None


def _resize(
    augmentations: T.AugmentationList,
    pixels: np.ndarray,
    boxes: np.ndarray,
    *,
    keep_pixels: bool = False,
) -> _Input:
    inputs = T.AugInput(pixels)
    boxes = augmentations(inputs).apply_box(boxes)
    size = inputs.image.shape[:2]
    if not keep_pixels:
        return _Input(size, boxes, None)
    channels = np.ascontiguousarray(inputs.image.transpose(2, 0, 1))
    return _Input(size, boxes, torch.as_tensor(channels).float())


def _find_missed(
    model: nn.Module, resized: _Input, classes: np.ndarray, scale: float
) -> np.ndarray | None:
    """Find the objects (G,) of an image without a positive; None if the model reports none."""
    height, width = (max(1, round(side * scale)) for side in resized.size)
    factors = np.array([width / resized.size[1], height / resized.size[0]] * 2)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.as_tensor(resized.boxes * factors, dtype=torch.float32))
    instances.gt_boxes.clip((height, width))
    instances.gt_classes = torch.as_tensor(classes)
    if resized.pixels is None:
        image = torch.zeros(3, height, width)
    elif scale == 1:
        image = resized.pixels
    else:
        options = {"size": (height, width), "mode": "bilinear", "antialias": True}
        (image,) = functional.interpolate(resized.pixels[None], **options)
    positives = interface_of(model).find_positives([{"image": image, "instances": instances}])
    if positives is None:
        return None
    return np.bincount(positives[0].index.cpu().numpy(), minlength=len(classes)) == 0
