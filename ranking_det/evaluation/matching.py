"""Match detections with objects by COCO's rules at one IoU, and keep the IoU of each match.

The evaluation libraries compute the IoUs of all detections and objects of a class in an image, but
only return precision. This module repeats their greedy matching on these IoUs, for all images and
classes at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_util

AREAS = {"all": (0.0, 1e10), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}
"""COCO's ranges of the area of an object, in square pixels, limits included."""

IoUs = Mapping[tuple[Any, Any], np.ndarray]
"""(D, G) IoU of the detections by descending score and the objects, by (image id, category id)."""


class Matches(NamedTuple):
    """The D detections of all images, and their match in each of the A ranges of :data:`AREAS`.

    The detections are in the order of COCO's evaluation: by class, then by descending score.
    Detections of equal score are in the order of the image ids, and then of the results.

    Attributes:
        label: (D,) int64, index of the class.
        score: (D,) float64.
        iou: (A, D) float64, IoU with the matched object, 0 without one.
        ignored: (A, D) bool; an ignored detection counts neither as true nor as false positive.
        num_objects: (A, K) int64, number of objects of each class, without ignored ones.
    """

    label: np.ndarray
    score: np.ndarray
    iou: np.ndarray
    ignored: np.ndarray
    num_objects: np.ndarray


def match(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    ious: IoUs,
    ids: Sequence[int],
    *,
    max_dets: int,
    lvis: bool,
    min_iou: float = 0.5,
) -> Matches:
    """Match the detections of a class in an image with its objects, by descending score.

    Each detection takes the free object of the highest IoU of at least ``min_iou``, of equal IoUs
    the last one. A detection without such an object may match an ignored one (a crowd, which
    matches any number of detections, or an object outside the area range), and is ignored then.
    Unmatched detections are ignored if their area is out of range, and by LVIS's rules if their
    class is in ``not_exhaustive_category_ids`` of the image. Source: ``COCOeval.evaluateImg`` of
    pycocotools (https://cocodataset.org/#detection-eval).

    Args:
        ground_truth: the content of an annotation file, complete for evaluation.
        results: the content of a result file, with "bbox" or "segmentation".
        ious: what the evaluation library computed for them.
        ids: the ids of K categories, ascending.
        max_dets: maximum number of detections of a class per image, >= 1.
        lvis: whether the annotation is federated.
        min_iou: minimum IoU of a match, in (0, 1].

    Returns:
        The detections with their matches.
    """
    images = {
        identity: i for i, identity in enumerate(sorted(i["id"] for i in ground_truth["images"]))
    }
    label_of = {identity: k for k, identity in enumerate(ids)}
    annotations = [a for a in ground_truth["annotations"] if a["category_id"] in label_of]
    results = [result for result in results if result["category_id"] in label_of]
    object_pair, object_order = _sort_by_pair(annotations, images, label_of)
    score = np.array([result["score"] for result in results], np.float64)
    pair, order = _sort_by_pair(results, images, label_of, score)
    first = np.searchsorted(pair, pair)  # of the pair, for each detection
    kept = np.arange(len(pair)) - first < max_dets
    pair, order = pair[kept], order[kept]
    hits = _find_hits(ious, pair, object_pair, images, ids, min(min_iou, 1 - 1e-10))

    area = _areas([results[i] for i in order])
    object_area = np.array([annotations[i]["area"] for i in object_order], np.float64)
    crowd = np.array([bool(annotations[i]["iscrowd"]) for i in object_order], bool)
    partial = _partially_annotated(ground_truth, images, label_of, pair) if lvis else None
    num_labels = len(ids)
    iou = np.zeros((len(AREAS), len(pair)))
    ignored = np.zeros((len(AREAS), len(pair)), bool)
    num_objects = np.zeros((len(AREAS), num_labels), np.int64)
    for i, (low, high) in enumerate(AREAS.values()):
        ignored_object = crowd | (object_area < low) | (object_area > high)
        counted = object_pair[~ignored_object] // max(1, len(images))
        num_objects[i] = np.bincount(counted, minlength=num_labels)
        match_of = _match_greedily(*hits, ignored_object, crowd)
        matched = np.array(list(match_of), np.int64)
        target = np.array([match_of[d][0] for d in match_of], np.int64)
        iou[i, matched] = [match_of[d][1] for d in match_of]
        ignored[i] = (area < low) | (area > high)
        if partial is not None:
            ignored[i] |= partial
        ignored[i, matched] = ignored_object[target]
    label = pair // max(1, len(images))
    # Stable: equal scores stay in the order of the images.
    by_score = np.lexsort((-score[order], label))
    return Matches(
        label[by_score], score[order][by_score], iou[:, by_score], ignored[:, by_score], num_objects
    )


def _sort_by_pair(
    entries: Sequence[Mapping[str, Any]],
    images: Mapping[Any, int],
    label_of: Mapping[Any, int],
    score: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Sort entries by class, image and descending score; return their (class, image) and index.

    A pair of class and image is numbered ``class * number of images + image``.
    """
    image = np.array([images[entry["image_id"]] for entry in entries], np.int64)
    label = np.array([label_of[entry["category_id"]] for entry in entries], np.int64)
    pair = label * len(images) + image
    order = np.lexsort((pair,) if score is None else (-score, pair))
    return pair[order], order


def _find_hits(
    ious: IoUs,
    pair: np.ndarray,
    object_pair: np.ndarray,
    images: Mapping[Any, int],
    ids: Sequence[int],
    min_iou: float,
) -> tuple[list[int], list[int], list[float]]:
    """Find the detections and objects with a sufficient IoU, in the order of the detections."""
    image_ids = list(images)
    pairs, starts = np.unique(pair, return_index=True)
    object_starts = np.searchsorted(object_pair, pairs)
    object_ends = np.searchsorted(object_pair, pairs, side="right")
    blocks, sizes = [], []
    for number, count in zip(pairs.tolist(), (object_ends - object_starts).tolist(), strict=True):
        if count:
            key = image_ids[number % len(image_ids)], ids[number // len(image_ids)]
            blocks.append(np.asarray(ious[key], np.float64).ravel())
            sizes.append(len(blocks[-1]))
    if not blocks:
        return [], [], []
    flat = np.concatenate(blocks)
    has_objects = object_ends > object_starts
    counts = (object_ends - object_starts)[has_objects]
    entries = np.flatnonzero(flat >= min_iou)
    ends = np.cumsum(sizes)
    block = np.searchsorted(ends, entries, side="right")
    offset = entries - (ends - sizes)[block]
    detection = starts[has_objects][block] + offset // counts[block]
    target = object_starts[has_objects][block] + offset % counts[block]
    return detection.tolist(), target.tolist(), flat[entries].tolist()


def _match_greedily(
    detections: Sequence[int],
    targets: Sequence[int],
    ious: Sequence[float],
    ignored: np.ndarray,
    crowd: np.ndarray,
) -> dict[int, tuple[int, float]]:
    """Return the matched object and its IoU by detection."""
    is_ignored, is_crowd = ignored.tolist(), crowd.tolist()
    taken: set[int] = set()
    match_of: dict[int, tuple[int, float]] = {}
    start, end = 0, len(detections)
    while start < end:
        detection = detections[start]
        best, best_iou, best_ignored = -1, 0.0, True
        while start < end and detections[start] == detection:
            target, iou = targets[start], ious[start]
            start += 1
            if target in taken and not is_crowd[target]:
                continue
            # An object that is not ignored is better than any that is.
            if (is_ignored[target], -iou) <= (best_ignored, -best_iou):
                best, best_iou, best_ignored = target, iou, is_ignored[target]
        if best >= 0:
            taken.add(best)
            match_of[detection] = best, best_iou
    return match_of


def _areas(results: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return the areas of boxes or masks in square pixels."""
    if results and "bbox" in results[0]:
        boxes = np.array([result["bbox"] for result in results], np.float64)
        return boxes[:, 2] * boxes[:, 3]
    masks = [result["segmentation"] for result in results]
    return np.asarray(mask_util.area(masks) if masks else [], np.float64)


def _partially_annotated(
    ground_truth: Mapping[str, Any],
    images: Mapping[Any, int],
    label_of: Mapping[Any, int],
    pair: np.ndarray,
) -> np.ndarray:
    """Return whether the class of each detection is annotated only partially in its image."""
    numbers = [
        label_of[identity] * len(images) + images[image["id"]]
        for image in ground_truth["images"]
        for identity in image.get("not_exhaustive_category_ids") or ()
        if identity in label_of
    ]
    return np.isin(pair, numbers)
