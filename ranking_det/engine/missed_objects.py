"""Count the objects that a config's anchors and assigner leave without a positive, by input size.

Nothing is trained to find an object without a positive. The positives are those that ``--preview``
draws; for an assigner that needs predictions, they are those of the first training step.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn import functional

from ranking_det.data.images import UnreadableImageError
from ranking_det.data.mapper import read_array
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

MAX_IMAGES = 100
"""Default maximum number of images in which positives are counted."""

BATCH = 8
"""Number of images per call of the assigner, if it needs no pixels."""

MAX_SECONDS = 60.0
"""Default time in seconds after which no further image is processed."""


@dataclass(frozen=True)
class MissedObjects:
    """Objects without a positive at one input size.

    Attributes:
        scale: the input size as a multiple of the config's.
        width: the median width of the inputs, in pixels.
        height: the median height of the inputs, in pixels.
        missed: number of objects without a positive.
        missed_by_size: their number by the size of the box at the config's input size, for the
            bins of :data:`SIZES`.
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
        images: number of images in which positives were counted.
        of_images: number of images with objects in the data set.
        objects: number of objects in the counted images.
        by_size: number of these objects by the size of the box at the config's input size.
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
    classes: Tensor
    pixels: Tensor | None


def input_sizes(config: RunConfig, images: Sequence[ImageObjects]) -> np.ndarray:
    """Return the sizes to which a config's test mapper resizes images.

    Args:
        config: the config.
        images: the N images.

    Returns:
        (N, 2) width and height in pixels.

    Raises:
        UserError: see :meth:`RunConfig.resizing`.
    """
    augmentations, _ = config.resizing()
    nothing = np.zeros((0, 4)), torch.zeros(0, dtype=torch.int64)
    # Resize once per size: the images of a data set have few different sizes.
    sizes = {image.size: (0, 0) for image in images}
    for size in sizes:
        height, width = _resize(augmentations, _blank(size), *nothing, False).size
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
        images: the images; those without objects are skipped. The others are taken in a random
            order with a fixed seed.
        max_images: maximum number of images, >= 1.
        max_seconds: seconds after which no further image is taken, except the first.

    Returns:
        The counts; None if the model does not report its positives, or no image could be used.

    Raises:
        UserError: see :meth:`RunConfig.resizing`.
    """
    augmentations, image_format = config.resizing()
    needs_pixels = interface_of(model).positives_need_images
    rows = [index for index, image in enumerate(images) if len(image.boxes)]
    order = np.random.default_rng(0).permutation(rows)[:max_images].tolist()
    batch_size = 1 if needs_pixels else BATCH
    sizes: list[np.ndarray] = []  # of the boxes of an image at the config's input size
    missed: list[list[np.ndarray]] = [[] for _ in SCALES]  # (G,) bool of each image
    shapes = []
    end = time.monotonic() + max_seconds
    for start in range(0, len(order), batch_size):
        if sizes and time.monotonic() > end:
            break
        batch = []
        for image in (images[row] for row in order[start : start + batch_size]):
            pixels = _read(image, image_format) if needs_pixels else _blank(image.size)
            if pixels is not None:
                classes = torch.as_tensor(image.classes)
                batch.append(_resize(augmentations, pixels, image.boxes, classes, needs_pixels))
        shapes += [inputs.size for inputs in batch]
        sizes += [box_sizes(inputs.boxes) for inputs in batch]
        for scale, of_scale in zip(SCALES, missed, strict=True):
            inputs = [_scale(resized, scale) for resized in batch]
            positives = interface_of(model).find_positives(inputs) if batch else []
            if positives is None:
                return None
            for of_image, resized in zip(positives, batch, strict=True):
                index = of_image.index.cpu().numpy()
                of_scale.append(np.bincount(index, minlength=len(resized.boxes)) == 0)
    if not sizes:
        return None
    height, width = np.median(shapes, axis=0)
    all_sizes = np.concatenate(sizes)
    inputs = [
        MissedObjects(
            scale,
            round(width * scale),
            round(height * scale),
            int(row.sum()),
            [part.count for part in histogram(all_sizes[row], SIZES)],
        )
        for scale, row in zip(SCALES, map(np.concatenate, missed), strict=True)
    ]
    return PositiveCounts(
        len(sizes), len(rows), len(all_sizes), histogram(all_sizes, SIZES), inputs
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
    classes: Tensor,
    keep_pixels: bool,
) -> _Input:
    inputs = T.AugInput(pixels)
    boxes = augmentations(inputs).apply_box(boxes)
    size = inputs.image.shape[:2]
    if not keep_pixels:
        return _Input(size, boxes, classes, None)
    channels = np.ascontiguousarray(inputs.image.transpose(2, 0, 1))
    return _Input(size, boxes, classes, torch.as_tensor(channels).float())


def _scale(inputs: _Input, scale: float) -> dict[str, Any]:
    """Return the input for the model at another size, with boxes to match."""
    height, width = (max(1, round(side * scale)) for side in inputs.size)
    factors = np.array([width / inputs.size[1], height / inputs.size[0]] * 2)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.as_tensor(inputs.boxes * factors, dtype=torch.float32))
    instances.gt_boxes.clip((height, width))
    instances.gt_classes = inputs.classes
    if inputs.pixels is None:
        image = torch.zeros(3, height, width)
    elif scale == 1:
        image = inputs.pixels
    else:
        options = {"size": (height, width), "mode": "bilinear", "antialias": True}
        (image,) = functional.interpolate(inputs.pixels[None], **options)
    return {"image": image, "instances": instances}
