"""From a dataset dict to what a detector is trained with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.data.detection_utils import SizeMismatchError, check_image_size, read_image
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from detectron2.structures.masks import polygons_to_bitmask
from PIL.Image import DecompressionBombError
from pycocotools import mask as mask_util

from ranking_det.data.augmentation import centers_inside
from ranking_det.user_errors import UserError

Record = dict[str, Any]


class BoxMapper:
    """Read an image, augment it with its boxes, and keep the objects whose centre is still in it.

    For training with boxes, or with masks too. Unlike Detectron2's DatasetMapper, it shows the
    boxes to the augmentations, which :class:`ranking_det.data.augmentation.MinIoURandomCrop` needs,
    and drops an object if a crop has cut off its centre, where Detectron2 would keep a sliver.
    Crowds are shown to the augmentations too, so that a crop is chosen by all boxes, as published,
    but are not among the instances. Masks may be polygons and RLE in one file, some of them empty.

    Args:
        augmentations: Detectron2 augmentations or transforms, in order.
        image_format: "RGB" or "BGR", as Detectron2's ``read_image`` takes it.
        min_side: objects and crowds of less width or height in the file are left out; pixels, >= 0.
        masks: whether to give masks; see :func:`transform_masks`.
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
            raise ValueError(f"min_side must be >= 0, got {min_side!r}")
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.min_side = min_side
        self.masks = masks

    def __call__(self, dataset_dict: Record) -> Record:
        """Map one image.

        Args:
            dataset_dict: in Detectron2's format; it is left as it is.

        Returns:
            The same without ``annotations``, with ``image`` (3, H, W), of the type that the
            augmentations leave it in, and ``instances``, which has ``gt_boxes`` (G, 4) XYXY within
            the image, ``gt_classes`` (G,) and, if asked for, ``gt_masks``; G may be 0.
        """
        result = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        image = read_image(result["file_name"], format=self.image_format)
        check_image_size(result, image)
        objects, boxes = self._objects(dataset_dict.get("annotations", ()))
        inputs = T.AugInput(image, boxes=boxes)
        transforms = self.augmentations(inputs)
        size = inputs.image.shape[:2]
        # What comes after a crop maps the whole image onto the whole, so the end is as good a place
        # as the crop to look for centres.
        keep = centers_inside(inputs.boxes, (0, 0, size[1], size[0]))
        keep &= np.array([not annotation.get("iscrowd", 0) for annotation in objects], dtype=bool)
        objects = [thing for thing, inside in zip(objects, keep, strict=True) if inside]
        instances = Instances(size)
        instances.gt_boxes = Boxes(torch.as_tensor(inputs.boxes[keep], dtype=torch.float32))
        instances.gt_boxes.clip(size)
        classes = [thing["category_id"] for thing in objects]
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        if self.masks:
            segmentations = [thing.get("segmentation") for thing in objects]
            instances.gt_masks = transform_masks(segmentations, transforms, size)
        result["image"] = torch.as_tensor(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        result["instances"] = instances
        return result

    def _objects(self, annotations: Sequence[Record]) -> tuple[list[Record], np.ndarray]:
        """The objects and crowds that are large enough, and their boxes (n, 4) XYXY."""
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
    """Masks of any of COCO's forms, even mixed in one image, as Detectron2's.

    Polygons of fewer than three points are left out. An object may be left without a mask: it is
    trained as a box, and its mask is empty.

    Args:
        segmentations: of each object a list of polygons [x, y, ...], a compressed RLE with
            ``counts`` and ``size``, or None for no mask; in pixels of the image as it is read.
        transforms: what has been done to the image.
        size: (height, width) of the image thereafter.

    Returns:
        Polygons if no object has an RLE, else bitmaps.
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
    """Flat polygons in the pixels of the augmented image."""
    usable = [p for p in segmentation or () if len(p) >= 6 and len(p) % 2 == 0]
    points = [np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in usable]
    # By their points, as apply_polygons would cut them at a crop's edges, for which it needs
    # shapely; whoever draws them cuts them anyway.
    return [transforms.apply_coords(polygon).reshape(-1) for polygon in points]


# What PIL raises over a bad file, and Detectron2 over a size that differs.
UNREADABLE = (OSError, SyntaxError, EOFError, DecompressionBombError, SizeMismatchError)


class NamedErrors:
    """Another mapper, whose failure to read an image names the file.

    Args:
        mapper: such as Detectron2's DatasetMapper.
    """

    def __init__(self, mapper: Callable[[Record], Any]) -> None:
        self.mapper = mapper

    def __call__(self, dataset_dict: Record) -> Any:
        """Map one image.

        Raises:
            UserError: its file is missing, is no image or is cut short, or is of another size
                than the annotations say.
        """
        try:
            return self.mapper(dataset_dict)
        except UNREADABLE as error:
            path, reason = dataset_dict.get("file_name"), " ".join(str(error).split())
            raise UserError(f"the image {path!r} cannot be read: {reason}") from error
