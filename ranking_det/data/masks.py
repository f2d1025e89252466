"""The masks of an image's objects, augmented as the image is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.structures import BitMasks, PolygonMasks
from detectron2.structures.masks import polygons_to_bitmask
from pycocotools import mask as mask_util


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
    if not any(isinstance(own, dict) for own in segmentations):
        return PolygonMasks([_polygons(own, transforms) for own in segmentations])
    masks = np.zeros((len(segmentations), *size), dtype=bool)
    for mask, own in zip(masks, segmentations, strict=True):
        if isinstance(own, dict):
            mask[:] = transforms.apply_segmentation(mask_util.decode(own)) > 0
        else:
            mask[:] = polygons_to_bitmask(_polygons(own, transforms), *size)
    return BitMasks(torch.from_numpy(masks))


def _polygons(segmentation: Any, transforms: T.Transform) -> list[np.ndarray]:
    """Flat polygons in the pixels of the augmented image."""
    usable = [p for p in segmentation or () if len(p) >= 6 and len(p) % 2 == 0]
    points = [np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in usable]
    # By their points, as apply_polygons would cut them at a crop's edges, for which it needs
    # shapely; whoever draws them cuts them anyway.
    return [transforms.apply_coords(polygon).reshape(-1) for polygon in points]
