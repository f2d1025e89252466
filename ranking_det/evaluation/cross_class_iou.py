"""IoUs between detections and objects of other classes, for confusion matrices and error types.

The IoUs within classes are in :class:`ranking_det.evaluation.matching.Detections`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from ranking_det.data.coco_json.reader import image_sizes
from ranking_det.evaluation.matching import Detections, Overlaps

BLOCK = 10_000
"""Maximum number of detections whose IoUs are computed in one call, to bound memory."""


def cross_class_overlaps(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    detections: Detections,
    iou_type: str,
    *,
    min_iou: float,
) -> Overlaps:
    """Find the objects of other classes that each detection overlaps.

    Args:
        ground_truth: the content of the annotation file that the detections were evaluated with.
        results: the content of the result file.
        detections: the detections of all images.
        iou_type: "bbox" or "segm".
        min_iou: minimum IoU, in (0, 1].

    Returns:
        Pairs of a detection and a non-crowd object in the same image, of different classes and
        with an IoU of at least ``min_iou``.
    """
    objects = detections.objects
    object_rows = np.flatnonzero(~objects.crowd)
    annotations = [ground_truth["annotations"][i] for i in objects.annotation[object_rows]]
    rows = [results[i] for i in detections.result]
    if iou_type == "bbox":
        shapes, object_shapes = (_boxes(entries) for entries in (rows, annotations))
    else:
        sizes = image_sizes(ground_truth)
        shapes = [row["segmentation"] for row in rows]
        object_shapes = [
            _rle(entry["segmentation"], sizes[entry["image_id"]]) for entry in annotations
        ]
    image, object_image = detections.image, objects.image[object_rows]
    by_image, object_by_image = (np.argsort(i, kind="stable") for i in (image, object_image))
    num_images = len(ground_truth["images"])
    starts, object_starts = (
        np.searchsorted(column, np.arange(num_images + 1))
        for column in (image[by_image], object_image[object_by_image])
    )
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for i in range(num_images):
        targets = object_by_image[object_starts[i] : object_starts[i + 1]]
        for start in range(starts[i], starts[i + 1] if len(targets) else 0, BLOCK):
            block = by_image[start : min(start + BLOCK, starts[i + 1])]
            ious = mask_util.iou(
                _take(shapes, block), _take(object_shapes, targets), [False] * len(targets)
            )
            other_class = detections.label[block][:, None] != objects.label[object_rows[targets]]
            row, column = np.nonzero(other_class & (ious >= min_iou))
            parts.append((block[row], object_rows[targets[column]], ious[row, column]))
    detection, target, iou = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((target, detection))
    return Overlaps(detection[order], target[order], iou[order])


def _boxes(entries: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)


def _rle(mask: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Return polygons or an uncompressed mask as compressed RLE."""
    width, height = size
    if isinstance(mask, list):
        return mask_util.merge(mask_util.frPyObjects(mask, height, width))
    if isinstance(mask["counts"], list):
        return mask_util.frPyObjects(mask, height, width)
    return mask


def _take(shapes: Any, index: np.ndarray) -> Any:
    return shapes[index] if isinstance(shapes, np.ndarray) else [shapes[i] for i in index]
