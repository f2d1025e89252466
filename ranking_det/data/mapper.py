"""Dataset mappers: read and augment an image with its boxes and masks; skip broken images."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data.detection_utils import SizeMismatchError, check_image_size
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from detectron2.structures.masks import polygons_to_bitmask
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from PIL import Image
from pycocotools import mask as mask_util

from ranking_det.checks import check_choice, check_that
from ranking_det.data.augmentation import centers_inside
from ranking_det.data.images import UnreadableImageError, read_upright
from ranking_det.user_errors import UserError, quantity

logger = logging.getLogger(__name__)

Record = dict[str, Any]

IMAGE_FORMATS = ("BGR", "RGB", "L", "YUV-BT.601")
"""The image formats that Detectron2 supports."""


class BoxMapper:
    """Dataset mapper for training that passes the boxes to the augmentations.

    It returns boxes, and optionally masks. It differs from Detectron2's DatasetMapper in two ways.
    First, it passes the boxes to the augmentations, which
    :class:`ranking_det.data.augmentation.MinIoURandomCrop` needs. Second, it drops an object if a
    crop cuts off its center; Detectron2 keeps the part that remains. The augmentations also get the
    boxes of crowds, so that a crop depends on all boxes, as published; the instances contain no
    crowds. A file may mix polygons, RLE and empty masks.

    Args:
        augmentations: Detectron2 augmentations or transforms, in order.
        image_format: "RGB" or "BGR", as Detectron2's ``read_image`` takes it.
        min_side: drop objects and crowds with a smaller width or height in the file, in pixels,
            >= 0.
        masks: whether to return masks; see :func:`transform_masks`.

    Raises:
        ValueError: ``min_side`` is negative.
    """

    def __init__(
        self,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        min_side: float = 1.0,
        masks: bool = False,
    ) -> None:
        if min_side < 0:
            raise ValueError(f"min_side: expected a number of at least 0, got {min_side!r}")
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.min_side = min_side
        self.masks = masks

    def __call__(self, dataset_dict: Record) -> Record:
        """Map one image.

        Args:
            dataset_dict: a dataset dict in Detectron2's format; it is not changed.

        Returns:
            The dict without ``annotations``, with ``image`` (3, H, W), of the type that the
            augmentations return, and ``instances`` with ``gt_boxes`` (G, 4) XYXY in pixels, clipped
            to the image, ``gt_classes`` (G,) int64 and, if requested, ``gt_masks``. G may be 0.
        """
        result = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        image = detection_utils.read_image(result["file_name"], format=self.image_format)
        check_image_size(result, image)
        objects, boxes = self._objects(dataset_dict.get("annotations", ()))
        inputs = T.AugInput(image, boxes=boxes)
        transforms = self.augmentations(inputs)
        size = inputs.image.shape[:2]
        # The transforms after a crop map the whole image onto the whole image. Testing the centers
        # at the end is therefore the same as testing them at the crop.
        is_learned = centers_inside(inputs.boxes, (0, 0, size[1], size[0]))
        is_learned &= np.array(
            [not annotation.get("iscrowd", 0) for annotation in objects], dtype=bool
        )
        objects = list(itertools.compress(objects, is_learned))
        instances = Instances(size)
        instances.gt_boxes = Boxes(torch.as_tensor(inputs.boxes[is_learned], dtype=torch.float32))
        instances.gt_boxes.clip(size)
        classes = [annotation["category_id"] for annotation in objects]
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        if self.masks:
            segmentations = [annotation.get("segmentation") for annotation in objects]
            instances.gt_masks = transform_masks(segmentations, transforms, size)
        result["image"] = torch.as_tensor(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        result["instances"] = instances
        return result

    def count_dropped(self, records: Iterable[Record]) -> int:
        """Count the objects that are too small for training, because of ``min_side``.

        Args:
            records: dataset dicts in Detectron2's format.

        Returns:
            The number of objects, without crowds.
        """
        annotations = (a for record in records for a in record["annotations"])
        objects = [a for a in annotations if not a.get("iscrowd", 0)]
        return len(objects) - len(self._objects(objects)[0])

    def _objects(self, annotations: Sequence[Record]) -> tuple[list[Record], np.ndarray]:
        """Return the objects and crowds that are large enough, and their boxes (n, 4) XYXY."""
        objects, boxes = [], [np.zeros((0, 4))]
        for annotation in annotations:
            box = np.asarray(annotation["bbox"], dtype=np.float64)[None]
            box = BoxMode.convert(box, annotation["bbox_mode"], BoxMode.XYXY_ABS)
            if (box[:, 2:] - box[:, :2]).min() >= self.min_side:
                objects.append(annotation)
                boxes.append(box)
        return objects, np.concatenate(boxes)


def transform_masks(
    segmentations: Sequence[Any], transforms: T.Transform, size: tuple[int, int]
) -> PolygonMasks | BitMasks:
    """Transform COCO masks to Detectron2's masks; an image may mix polygons and RLE.

    Polygons of fewer than three points are dropped. An object may end up without a mask: it is
    trained as a box, and its mask is empty.

    Args:
        segmentations: for each object, a list of polygons [x, y, ...], a compressed RLE with
            ``counts`` and ``size``, or None for no mask; in pixels of the image as it was read.
        transforms: the transforms that were applied to the image.
        size: (height, width) of the transformed image, in pixels.

    Returns:
        Polygons if no object has an RLE, else bitmaps (G, height, width).
    """
    if not any(isinstance(mask, dict) for mask in segmentations):
        return PolygonMasks([_polygons(mask, transforms) for mask in segmentations])
    bitmaps = np.zeros((len(segmentations), *size), dtype=bool)
    for bitmap, mask in zip(bitmaps, segmentations, strict=True):
        if isinstance(mask, dict):
            bitmap[:] = transforms.apply_segmentation(mask_util.decode(mask)) > 0
        else:
            bitmap[:] = polygons_to_bitmask(_polygons(mask, transforms), *size)
    return BitMasks(torch.from_numpy(bitmaps))


def _polygons(segmentation: Any, transforms: T.Transform) -> list[np.ndarray]:
    """Return flat polygons in pixels of the augmented image."""
    usable = [p for p in segmentation or () if len(p) >= 6 and len(p) % 2 == 0]
    points = [np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in usable]
    # Point by point: apply_polygons would clip polygons to a crop, which needs shapely. Drawing a
    # polygon clips it anyway.
    return [transforms.apply_coords(polygon).reshape(-1) for polygon in points]


class UnreadableImages:
    """Counts of the unreadable images that a training run has skipped, shared by its processes.

    Args:
        paths: the files of the training set.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        # Data loading workers would each copy a dict of the paths, so only hashes are kept.
        self._hashes = np.unique(np.array([_hash(path) for path in paths], dtype=np.uint64))
        self._counts = torch.zeros(len(self._hashes), dtype=torch.int32).share_memory_()

    def add(self, path: str) -> bool:
        """Count an image that is skipped.

        Args:
            path: its file, one of those of the training set.

        Returns:
            Whether it is skipped for the first time.
        """
        index = int(np.searchsorted(self._hashes, np.uint64(_hash(path))))
        self._counts[index] += 1
        return bool(self._counts[index] == 1)

    def log_total(self) -> None:
        """Log the number of images skipped by all processes; all processes must call this."""
        gathered = comm.gather(self._counts.numpy(), dst=0)
        if comm.is_main_process():
            counts = np.sum(gathered, axis=0)
            if counts.any():
                num_images = np.count_nonzero(counts)
                logger.warning(
                    "%s skipped in training, %s in total",
                    quantity(num_images, "unreadable image was", "unreadable images were"),
                    quantity(counts.sum(), "time", "times"),
                )


def _hash(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "little")


class ResizeAtLeastOnePixel(T.ResizeShortestEdge):
    """Detectron2's ResizeShortestEdge, but no side of the result is shorter than one pixel.

    Detectron2 rounds the short side of an image of 3000 x 4 pixels to 0 if the long side is limited
    to 128, and then fails.

    Args:
        resize: Detectron2's augmentation, with its arguments as attributes.
    """

    def __init__(self, resize: T.ResizeShortestEdge) -> None:
        lengths = list(resize.short_edge_length)
        super().__init__(lengths, resize.max_size, resize.sample_style, resize.interp)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw the size of the result.

        Args:
            image: (H, W, C).

        Returns:
            The resizing, or no transform.
        """
        transform = super().get_transform(image)
        if isinstance(transform, T.ResizeTransform):
            transform.new_h, transform.new_w = max(1, transform.new_h), max(1, transform.new_w)
        return transform


class ImageMapper:
    """Wrap a dataset mapper: read images by this project's rules; skip or replace unreadable ones.

    The rules are those of :func:`ranking_det.data.images.read_upright`. They apply to mappers that
    read images by Detectron2's ``detection_utils.read_image``, such as Detectron2's DatasetMapper.
    If the augmentations of the mapper are a list, ResizeShortestEdge gives at least one pixel.

    Args:
        mapper: a mapper. Its augmentations are replaced.
        skipped: for training, counts the unreadable images, which are skipped. None to raise an
            error for them.
        blank: for evaluation, map a black image instead of an unreadable one, with the entry
            ``unreadable``.
    """

    def __init__(
        self,
        mapper: Callable[[Record], Any],
        *,
        skipped: UnreadableImages | None = None,
        blank: bool = False,
    ) -> None:
        self.mapper = mapper
        self.skipped = skipped
        self.blank = blank
        if isinstance(mapper, (DatasetMapper, BoxMapper)):
            mapper.augmentations.augs = [
                ResizeAtLeastOnePixel(step) if type(step) is T.ResizeShortestEdge else step
                for step in mapper.augmentations.augs
            ]

    def __call__(self, dataset_dict: Record) -> Any:
        """Map one image.

        Args:
            dataset_dict: a dataset dict in Detectron2's format.

        Returns:
            The result of the wrapped mapper. For an unreadable image: None to skip it, or a black
            image with ``unreadable``.

        Raises:
            UserError: the image file is missing, its size is not that of the annotations, or it is
                unreadable and not skipped.
        """
        path = dataset_dict.get("file_name")
        try:
            with _reading(dataset_dict):
                return self.mapper(dataset_dict)
        except UnreadableImageError as error:
            if self.skipped is not None:
                if self.skipped.add(str(path)):
                    logger.warning("Skipping the image %r: it cannot be read (%s)", path, error)
                return None
            if self.blank and {"height", "width"} <= dataset_dict.keys():
                logger.warning("Not evaluating the image %r: it cannot be read (%s)", path, error)
                with _reading(dataset_dict, blank=True):
                    return self.mapper(dataset_dict) | {"unreadable": str(error)}
            raise UserError(f"the image {path!r} cannot be read: {error}") from error
        # Raised by the file system, and by Detectron2 for a wrong size.
        except (OSError, SizeMismatchError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"the image {path!r} cannot be read: {reason}") from error

    def try_blank(self) -> int | None:
        """Map a black image with an object, to find wrong options of augmentations before a run.

        Returns:
            The number of channels of the mapped image; None for a mapper that is not Detectron2's
            or this project's, which is not tried.

        Raises:
            ValueError: the image format or a size of an augmentation is wrong.
            Exception: whatever an augmentation raises for a value that it cannot use.
        """
        if not isinstance(self.mapper, (DatasetMapper, BoxMapper)):
            return None
        check_choice("image_format", self.mapper.image_format, IMAGE_FORMATS)
        for augmentation in self.mapper.augmentations.augs:
            if isinstance(augmentation, T.ResizeShortestEdge):
                sizes = [*augmentation.short_edge_length, augmentation.max_size]
                is_valid = len(sizes) > 1 and min(sizes) > 0
                check_that(is_valid, "ResizeShortestEdge", "sizes above 0", sizes)
            if isinstance(augmentation, T.RandomCrop):
                _check_crop(augmentation)
        box = [160, 120, 480, 360]
        corners = [160, 120, 480, 120, 480, 360, 160, 360]
        shape = {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "segmentation": [corners]}
        record = {"file_name": "", "image_id": 0, "height": 480, "width": 640}
        record |= {"annotations": [{**shape, "category_id": 0, "iscrowd": 0}]}
        with _reading(record, blank=True):
            for _ in range(4):  # an augmentation may act on some images only
                mapped = self.mapper(record)
        return int(mapped["image"].shape[0])


def _check_crop(crop: T.RandomCrop) -> None:
    """Raise ValueError unless a random crop has a size above 0 for each image."""
    kind, sizes = crop.crop_type, list(crop.crop_size)
    if kind.startswith("relative"):
        is_valid = all(0 < size <= 1 for size in sizes)
        expected = "shares of the height and width above 0 and at most 1"
    else:
        is_valid = all(isinstance(size, int) and size > 0 for size in sizes)
        expected = "integers above 0"
    check_that(is_valid and len(sizes) == 2, "RandomCrop", f"two {expected} ({kind})", sizes)


@contextmanager
def _reading(dataset_dict: Record, *, blank: bool = False) -> Iterator[None]:
    """Make Detectron2's mappers read the image of a record by this project's rules."""
    original = detection_utils.read_image
    path = dataset_dict.get("file_name")
    has_size = {"height", "width"} <= dataset_dict.keys()
    size = (dataset_dict["width"], dataset_dict["height"]) if has_size else None

    def read(file_name: str, format: str | None = None) -> np.ndarray:
        if file_name != path or format is None:
            return original(file_name, format)
        if blank and size is not None:
            return detection_utils.convert_PIL_to_numpy(Image.new("RGB", size), format)
        return read_array(file_name, format, size)

    # Detectron2's DatasetMapper has no argument for this. Other code is not affected, because
    # data loading workers are processes, not threads.
    detection_utils.read_image = read
    try:
        yield
    finally:
        detection_utils.read_image = original


def read_array(path: str, image_format: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read an image by this project's rules; see :func:`ranking_det.data.images.read_upright`.

    Args:
        path: the image file, on this machine or where Detectron2's file system finds it.
        image_format: such as "RGB" or "BGR", as Detectron2's ``read_image`` takes it.
        size: (width, height) in the annotations, or None.

    Returns:
        (H, W, C) in the format.

    Raises:
        UnreadableImageError: the image cannot be decoded.
        OSError: the file is missing or the system cannot read it.
    """
    image = read_upright(PathManager.get_local_path(path), size)
    try:
        return detection_utils.convert_PIL_to_numpy(image, image_format)
    except ValueError as error:  # such as an image in LAB
        raise UnreadableImageError(str(error)) from error
