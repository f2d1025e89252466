"""Statistics of a data set before training: classes, box sizes, aspect ratios, crowding.

Crowds (``iscrowd: 1``) are counted but not included in the other statistics. The size of a box is
the square root of its area.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ranking_det.data.coco_json.reader import Annotations
from ranking_det.data.split import group_copies

SIZES = (0, 4, 8, 16, 32, 64, 128, 256, 512, np.inf)
"""Limits of the box sizes in histograms, in pixels."""

COCO_SIZES = (0, 32, 96, np.inf)
"""Limits of COCO's small, medium and large boxes, in pixels."""

ASPECT_RATIOS = (0, 1 / 4, 1 / 2, 4 / 5, 5 / 4, 2, 4, np.inf)
COUNTS = (0, 1, 2, 3, 5, 10, 20, 50, 100, 200, np.inf)
"""Limits of the aspect ratios, width / height, and of the objects per image in histograms."""

TINY = 8
"""Boxes under this size, in input pixels, are smaller than a cell of the finest feature map."""

SCALES = (0.5, 0.75, 1.0, 1.5, 2.0)
"""The input sizes that are compared, as multiples of the config's."""

OVERLAP_IOU, DUPLICATE_IOU = 0.5, 0.95
"""IoU above which two boxes overlap; IoU above which two boxes of the same class are probably
duplicate annotations."""

_ROWS = 256  # boxes of an image that are compared at a time with all its boxes


class ImageObjects(NamedTuple):
    """An image and its G objects.

    Attributes:
        name: the name in the annotation file.
        path: the image file; None if it is missing.
        size: (width, height) in pixels.
        boxes: (G, 4) XYXY in pixels.
        classes: (G,) int64, from 0.
        masks: the G segmentations as in the file; None for an object without one.
    """

    name: str
    path: str | None
    size: tuple[int, int]
    boxes: np.ndarray
    classes: np.ndarray
    masks: list[Any]


@dataclass(frozen=True)
class Bin:
    """A bar of a histogram.

    Attributes:
        label: the range of its values.
        count: number of values in it.
    """

    label: str
    count: int


@dataclass(frozen=True)
class Distribution:
    """Quantiles and histogram of values; without values, the quantiles are 0.

    Attributes:
        minimum: the smallest value.
        low: the 5% quantile.
        median: the median.
        high: the 95% quantile.
        maximum: the largest value.
        mean: the mean.
        bins: the histogram.
    """

    minimum: float
    low: float
    median: float
    high: float
    maximum: float
    mean: float
    bins: list[Bin]


@dataclass(frozen=True)
class ClassCount:
    """Counts of a class.

    Attributes:
        name: the name.
        objects: number of objects.
        images: number of images that have such objects.
    """

    name: str
    objects: int
    images: int


@dataclass(frozen=True)
class Crowding:
    """Counts of overlapping boxes in one image.

    Attributes:
        same_class: objects that overlap another one of their class.
        other_class: objects that overlap one of another class.
        duplicate_pairs: pairs of nearly equal boxes of one class.
    """

    same_class: int
    other_class: int
    duplicate_pairs: int


@dataclass(frozen=True)
class DataStatistics:
    """Statistics of the images and objects of one split.

    Attributes:
        images: number of images.
        empty_images: number of images without an object.
        objects: number of objects.
        crowds: number of crowds.
        masks: number of objects with a mask.
        classes: the counts of each class, in the order of the classes.
        image_sizes: the most frequent (width, height) in pixels and their counts, up to five.
        objects_per_image: number of objects of each image.
        sizes: sizes of the boxes, in pixels of the image files.
        input_sizes: sizes of the boxes, in pixels of the model's input.
        coco_sizes: number of COCO's small, medium and large boxes, by the area of the box in the
            image file.
        input_coco_sizes: the same by the area of the box in the model's input.
        aspect_ratios: width / height of the boxes.
        tiny: share of the objects under :data:`TINY` pixels in the input, in [0, 1], for each scale
            of the input in :data:`SCALES`.
        crowding: counts of overlapping boxes.
    """

    images: int
    empty_images: int
    objects: int
    crowds: int
    masks: int
    classes: list[ClassCount]
    image_sizes: list[tuple[int, int, int]]
    objects_per_image: Distribution
    sizes: Distribution
    input_sizes: Distribution
    coco_sizes: list[int]
    input_coco_sizes: list[int]
    aspect_ratios: Distribution
    tiny: dict[float, float]
    crowding: Crowding


@dataclass(frozen=True)
class Copies:
    """Images that are copies or augmentations of another image.

    Attributes:
        groups: the names of the images that are copies of each other, as ``split/name``.
        surplus: number of images beyond the first of each group.
        across: number of images that have a copy in an earlier split.
        lines: sentences about what was compared.
    """

    groups: list[list[str]]
    surplus: int
    across: int
    lines: list[str]


def group_objects(annotations: Annotations, paths: Sequence[str | None]) -> list[ImageObjects]:
    """Group the objects of an annotation file by image; crowds are left out.

    Args:
        annotations: the checked content.
        paths: the files of its images, in their order; None for a missing one.

    Returns:
        The images, in their order.
    """
    class_of = {category["id"]: index for index, category in enumerate(annotations.categories)}
    members = defaultdict(list)
    for annotation in annotations.annotations:
        if not annotation.get("iscrowd"):
            members[annotation["image_id"]].append(annotation)
    images = []
    for image, path in zip(annotations.images, paths, strict=True):
        objects = members[image["id"]]
        boxes = np.array([instance["bbox"] for instance in objects], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        classes = np.array([class_of[instance["category_id"]] for instance in objects], np.int64)
        name = str(image.get("file_name") or image.get("coco_url") or image["id"])
        masks = [instance.get("segmentation") for instance in objects]
        size = image["width"], image["height"]
        images.append(ImageObjects(name, path, size, boxes, classes, masks))
    return images


def shortest_edge_scales(images: Sequence[ImageObjects], short: int, long: int) -> np.ndarray:
    """Return the factors by which Detectron2's ResizeShortestEdge scales images.

    Args:
        images: the N images.
        short: the length of the shorter side, in pixels.
        long: the limit of the longer side, in pixels.

    Returns:
        (N,) float64.
    """
    sizes = np.array([image.size for image in images], np.float64).reshape(-1, 2)
    return np.minimum(short / sizes.min(axis=1), long / sizes.max(axis=1))


def box_sizes(boxes: np.ndarray) -> np.ndarray:
    """Return the square roots of the areas of boxes.

    Args:
        boxes: (n, 4) XYXY in pixels.

    Returns:
        (n,) in pixels.
    """
    return np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))


def measure(
    images: Sequence[ImageObjects],
    class_names: Sequence[str],
    scales: np.ndarray,
    crowds: int = 0,
) -> DataStatistics:
    """Compute the statistics of a split.

    Args:
        images: the N images, at least one.
        class_names: the names of the K classes.
        scales: (N,) the factors by which the images are resized to the model's input.
        crowds: number of crowds in the annotation file.

    Returns:
        The statistics.
    """
    counts = np.array([len(image.boxes) for image in images])
    boxes = np.concatenate([image.boxes for image in images])
    sizes = box_sizes(boxes)
    input_sizes = sizes * np.repeat(scales, counts)
    sides = boxes[:, 2:] - boxes[:, :2]
    frequent = Counter(image.size for image in images).most_common(5)
    return DataStatistics(
        images=len(images),
        empty_images=int((counts == 0).sum()),
        objects=len(boxes),
        crowds=crowds,
        masks=sum(bool(mask) for image in images for mask in image.masks),
        classes=_count_classes(images, class_names),
        image_sizes=[(*size, count) for size, count in frequent],
        objects_per_image=distribution(counts, COUNTS, integers=True),
        sizes=distribution(sizes, SIZES),
        input_sizes=distribution(input_sizes, SIZES),
        coco_sizes=[part.count for part in histogram(sizes, COCO_SIZES)],
        input_coco_sizes=[part.count for part in histogram(input_sizes, COCO_SIZES)],
        aspect_ratios=distribution(sides[:, 0] / sides[:, 1], ASPECT_RATIOS),
        tiny={
            scale: float((input_sizes * scale < TINY).sum() / max(len(input_sizes), 1))
            for scale in SCALES
        },
        crowding=Crowding(*np.sum([_overlaps(image) for image in images], axis=0).tolist()),
    )


def _count_classes(images: Sequence[ImageObjects], class_names: Sequence[str]) -> list[ClassCount]:
    objects, with_class = Counter[int](), Counter[int]()
    for image in images:
        classes = image.classes.tolist()
        objects.update(classes)
        with_class.update(set(classes))
    return [
        ClassCount(name, objects[index], with_class[index])
        for index, name in enumerate(class_names)
    ]


def _overlaps(image: ImageObjects) -> np.ndarray:
    """Return the three counts of :class:`Crowding`."""
    boxes, classes = image.boxes, image.classes
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    counts = np.zeros(3, np.int64)
    for start in range(0, len(boxes), _ROWS):
        rows = slice(start, start + _ROWS)
        corners = np.minimum(boxes[rows, None, 2:], boxes[:, 2:])
        sides = corners - np.maximum(boxes[rows, None, :2], boxes[:, :2])
        shared = sides.clip(min=0).prod(axis=2)
        ious = shared / (areas[rows, None] + areas - shared)
        order = np.arange(len(boxes)) - np.arange(len(boxes))[rows, None]
        overlapping = (ious > OVERLAP_IOU) & (order != 0)
        same_class = classes[rows, None] == classes
        counts += [
            (overlapping & same_class).any(axis=1).sum(),
            (overlapping & ~same_class).any(axis=1).sum(),
            ((order > 0) & same_class & (ious > DUPLICATE_IOU)).sum(),
        ]
    return counts


def distribution(
    values: np.ndarray, limits: Sequence[float], *, integers: bool = False
) -> Distribution:
    """Compute quantiles and histogram of values.

    Args:
        values: (n,), each at least the first limit.
        limits: the limits of the bins, ascending; the last is infinity.
        integers: whether the values are integers.

    Returns:
        The distribution.
    """
    bins = histogram(values, limits, integers=integers)
    if not len(values):
        return Distribution(0, 0, 0, 0, 0, 0, bins)
    quantiles = np.quantile(values, (0, 0.05, 0.5, 0.95, 1)).tolist()
    return Distribution(*quantiles, float(np.mean(values)), bins)


def histogram(values: np.ndarray, limits: Sequence[float], *, integers: bool = False) -> list[Bin]:
    """Count values between limits; each bin includes its lower limit.

    Args:
        values: (n,), each at least the first limit.
        limits: the limits of the bins, ascending; the last is infinity.
        integers: whether the values are integers.

    Returns:
        The bins.

    >>> histogram(np.array([1, 5, 7]), (0, 4, 8, np.inf))
    [Bin(label='< 4', count=1), Bin(label='4 to 8', count=2), Bin(label='8 and more', count=0)]
    """
    bins = []
    for low, high in zip(limits[:-1], limits[1:], strict=True):
        if high == np.inf:
            label = f"{low:g} and more"
        elif integers:
            label = f"{low:g}" if high == low + 1 else f"{low:g} to {high - 1:g}"
        else:
            label = f"{low:g} to {high:g}" if low else f"< {high:g}"
        bins.append(Bin(label, int(((values >= low) & (values < high)).sum())))
    return bins


def find_copies(splits: Mapping[str, Sequence[ImageObjects]]) -> Copies:
    """Find images that are copies of each other, within a split or across splits.

    Args:
        splits: the images by split.

    Returns:
        The copies.

    Raises:
        UserError: imagehash is not installed.
    """
    members = [(split, image) for split, images in splits.items() for image in images]
    # Include the split, because images with the same name in different splits need not be copies.
    names = [f"{split}/{image.name}" for split, image in members]
    numbers, lines = group_copies(names, [image.path for _, image in members])
    by_number: dict[int, list[int]] = defaultdict(list)
    for index, number in enumerate(numbers):
        by_number[number].append(index)
    groups = [group for group in by_number.values() if len(group) > 1]
    across = sum(members[index][0] != members[group[0]][0] for group in groups for index in group)
    missing = sum(image.path is None for _, image in members)
    if missing:
        lines.append(f"missing images, which were not compared: {missing:,} of {len(members):,}")
    surplus = sum(map(len, groups)) - len(groups)
    return Copies([[names[index] for index in group] for group in groups], surplus, across, lines)


def choose_samples(images: Sequence[ImageObjects], count: int, seed: int = 0) -> dict[int, str]:
    """Choose images to show: the most objects, the smallest box, and rare classes first.

    Args:
        images: the images; those without a file are not chosen.
        count: maximum number of images, at least 2.
        seed: the seed of the random order in which other images are taken.

    Returns:
        The reason for choosing each image, by its index; "" without a special reason.
    """
    rows = [i for i, image in enumerate(images) if image.path and len(image.boxes)]
    if not rows:
        return {}
    min_sizes = {i: float(box_sizes(images[i].boxes).min()) for i in rows}
    fullest, smallest = (
        max(rows, key=lambda i: len(images[i].boxes)),
        min(min_sizes, key=min_sizes.get),
    )
    chosen = {fullest: f"the most objects, {len(images[fullest].boxes):,}"}
    reasons = [chosen.get(smallest), f"the smallest object, {min_sizes[smallest]:.3g} px"]
    chosen[smallest] = "; ".join(filter(None, reasons))
    order = np.random.default_rng(seed).permutation(rows).tolist()
    classes = {i: set(images[i].classes.tolist()) for i in order}
    frequency = Counter(label for labels in classes.values() for label in labels)
    shown_classes = set().union(*(classes[i] for i in chosen))
    for label in sorted(frequency, key=lambda label: (frequency[label], label)):
        if label not in shown_classes and len(chosen) < count:
            index = next(i for i in order if label in classes[i])
            chosen[index] = ""
            shown_classes |= classes[index]
    for index in order:
        if len(chosen) < count:
            chosen.setdefault(index, "")
    return chosen
