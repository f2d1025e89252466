"""Match detections with objects by COCO's rules, and keep the IoU of each match.

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
    """The matches of D detections at one IoU, in one of the ranges of :data:`AREAS`.

    Attributes:
        iou: (D,) float64, IoU with the matched object, 0 without one.
        target: (D,) int64, index of the matched annotation, -1 without one.
        ignored: (D,) bool; an ignored detection counts neither as true nor as false positive.
        num_objects: (K,) int64, number of objects of each class, without ignored ones.
    """

    iou: np.ndarray
    target: np.ndarray
    ignored: np.ndarray
    num_objects: np.ndarray


class Overlaps(NamedTuple):
    """The H pairs of a detection and an object of the same class and image that overlap.

    The pairs are grouped by their detection, in the order of the detections.

    Attributes:
        detection: (H,) int64, index of the detection.
        target: (H,) int64, index of the object.
        iou: (H,) float64, above 0.
    """

    detection: np.ndarray
    target: np.ndarray
    iou: np.ndarray


class Objects(NamedTuple):
    """The G objects of the evaluated classes.

    Attributes:
        label: (G,) int64, index of the class.
        area: (G,) float64, in square pixels.
        crowd: (G,) bool.
        annotation: (G,) int64, index of the annotation in the ground truth.
        image: (G,) int64, index of the image in the ground truth.
    """

    label: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    annotation: np.ndarray
    image: np.ndarray


class Detections(NamedTuple):
    """The D detections of all images, with the objects that they overlap.

    The detections are in the order of COCO's evaluation: by class, then by descending score.
    Detections of equal score are in the order of the image ids, and then of the results.

    Attributes:
        label: (D,) int64, index of the class.
        score: (D,) float64.
        result: (D,) int64, index of the detection in the results.
        image: (D,) int64, index of the image in the ground truth.
        area: (D,) float64, in square pixels.
        partial: (D,) bool; by LVIS's rules, whether the class is annotated only partially in the
            image, so that an unmatched detection is ignored.
        overlaps: the pairs of a detection and an object that can match.
        objects: the objects.
        num_classes: K.
        matches: what :func:`match` has computed so far, by minimum IoU and area range. Scores do
            not change it, so copies with other scores share it.
    """

    label: np.ndarray
    score: np.ndarray
    result: np.ndarray
    image: np.ndarray
    area: np.ndarray
    partial: np.ndarray
    overlaps: Overlaps
    objects: Objects
    num_classes: int
    matches: dict[tuple[float, str], Matches]


def collect_detections(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    ious: IoUs,
    ids: Sequence[int],
    *,
    iou_type: str,
    max_dets: int,
    lvis: bool,
) -> Detections:
    """Sort the detections as COCO's evaluation does, and find the objects that they overlap.

    Args:
        ground_truth: the content of an annotation file, complete for evaluation.
        results: the content of a result file, with "bbox" or "segmentation".
        ious: what the evaluation library computed for them.
        ids: the ids of K categories, ascending.
        iou_type: "bbox" or "segm", which decides the area of a detection.
        max_dets: maximum number of detections of a class per image, >= 1.
        lvis: whether the annotation is federated.

    Returns:
        The detections, to be matched by :func:`match`.
    """
    image_ids = [image["id"] for image in ground_truth["images"]]
    # COCO's evaluation goes through the images by their ids.
    image_index = np.array(sorted(range(len(image_ids)), key=image_ids.__getitem__), np.int64)
    images = {image_ids[index]: i for i, index in enumerate(image_index)}
    label_of = {identity: k for k, identity in enumerate(ids)}
    object_pair, annotation = _sort_by_pair(ground_truth["annotations"], images, label_of)
    scores = np.array([entry["score"] for entry in results], np.float64)
    pair, result = _sort_by_pair(results, images, label_of, scores)
    first = np.searchsorted(pair, pair)  # of the pair, for each detection
    is_within_limit = np.arange(len(pair)) - first < max_dets
    pair, result = pair[is_within_limit], result[is_within_limit]
    overlaps = _find_overlaps(ious, pair, object_pair, list(images), ids)

    # Stable: equal scores stay in the order of the images.
    label = pair // max(1, len(images))
    score = scores[result]
    order = np.lexsort((-score, label))
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    detection = position[overlaps.detection]
    by_detection = np.argsort(detection, kind="stable")
    overlaps = Overlaps(
        detection[by_detection], overlaps.target[by_detection], overlaps.iou[by_detection]
    )
    pair, result = pair[order], result[order]
    annotations = [ground_truth["annotations"][i] for i in annotation]
    objects = Objects(
        object_pair // max(1, len(images)),
        np.array([entry["area"] for entry in annotations], np.float64),
        np.array([bool(entry["iscrowd"]) for entry in annotations], bool),
        annotation,
        image_index[object_pair % max(1, len(images))],
    )
    partial = np.zeros(len(pair), bool)
    if lvis:
        partial = _partially_annotated(ground_truth, images, label_of, pair)
    area, image = _areas(results, iou_type)[result], image_index[pair % max(1, len(images))]
    return Detections(
        label[order], score[order], result, image, area, partial, overlaps, objects, len(ids), {}
    )


def rows_by_class(detections: Detections, is_counted: np.ndarray) -> list[np.ndarray]:
    """Return the rows of the detections of each class that count, by descending score.

    Args:
        detections: the detections.
        is_counted: (D,) bool, such as those that are not ignored.

    Returns:
        K arrays of int64 indices.
    """
    rows = np.flatnonzero(is_counted)
    ends = np.searchsorted(detections.label[rows], np.arange(1, detections.num_classes))
    return np.split(rows, ends)


def match(detections: Detections, *, min_iou: float = 0.5, area: str = "all") -> Matches:
    """Match the detections of a class in an image with its objects, by descending score.

    Each detection takes the free object of the highest IoU of at least ``min_iou``, of equal IoUs
    the last one. A detection without such an object may match an ignored one (a crowd, which
    matches any number of detections, or an object outside the area range), and is ignored then.
    Unmatched detections are ignored if their area is out of range, and by LVIS's rules if their
    class is in ``not_exhaustive_category_ids`` of the image. Source: ``COCOeval.evaluateImg`` of
    pycocotools (https://cocodataset.org/#detection-eval).

    Args:
        detections: the detections of all images.
        min_iou: minimum IoU of a match, in [0, 1]. With 0, the IoU must be above 0.
        area: the range of the area, one of :data:`AREAS`.

    Returns:
        The match of each detection. It is computed once, so do not modify it.
    """
    if (min_iou, area) not in detections.matches:
        detections.matches[min_iou, area] = _match(detections, min_iou, *AREAS[area])
    return detections.matches[min_iou, area]


def _match(detections: Detections, min_iou: float, low: float, high: float) -> Matches:
    objects, overlaps = detections.objects, detections.overlaps
    ignored_object = objects.crowd | (objects.area < low) | (objects.area > high)
    candidates = overlaps.iou >= min(min_iou, 1 - 1e-10)
    candidate_pairs = Overlaps(*(column[candidates] for column in overlaps))
    matched = match_greedily(candidate_pairs, ignored_object, objects.crowd)
    iou = np.zeros(len(detections.score))
    iou[matched.detection] = matched.iou
    annotation = np.full(len(detections.score), -1)
    annotation[matched.detection] = objects.annotation[matched.target]
    ignored = detections.partial | (detections.area < low) | (detections.area > high)
    ignored[matched.detection] = ignored_object[matched.target]
    counted_labels = objects.label[~ignored_object]
    num_objects = np.bincount(counted_labels, minlength=detections.num_classes)
    return Matches(iou, annotation, ignored, num_objects)


def counted_rows(detections: Detections, matches: Matches, label: int | None = None) -> np.ndarray:
    """Return the detections that count as true or false positives.

    Args:
        detections: the detections of all images.
        matches: their matches.
        label: index of the class; None for all classes.

    Returns:
        int64 indices, by descending score; of equal scores, in the order of the detections.
    """
    if label is None:
        rows = np.flatnonzero(~matches.ignored)
        return rows[np.argsort(-detections.score[rows], kind="stable")]
    start, end = np.searchsorted(detections.label, [label, label + 1])
    return np.flatnonzero(~matches.ignored[start:end]) + start


def free_objects(detections: Detections, matches: Matches, rows: np.ndarray) -> np.ndarray:
    """Return which objects are matched by none of some detections.

    Args:
        detections: the D detections of all images.
        matches: their matches.
        rows: (D,) bool, the detections that count.

    Returns:
        (G,) bool; False for crowds.
    """
    objects = detections.objects
    return ~objects.crowd & ~np.isin(objects.annotation, matches.target[rows])


def match_greedily(pairs: Overlaps, ignored: np.ndarray, crowd: np.ndarray) -> Overlaps:
    """Match each detection with the free object of the highest IoU, in the order of the detections.

    All detections take their best object at once. If several take the same one, the first of them
    keeps it, and the others turn to their next best object, until nobody has to turn to another.
    This gives the same matches as going through the detections one by one, because an object always
    ends up with the first detection that wants it.

    Args:
        pairs: all pairs that may match, grouped by detection, whose order is that of the groups.
        ignored: (G,) bool, objects that are taken only if no other one is free.
        crowd: (G,) bool, objects that any number of detections may take.

    Returns:
        The matched pairs, at most one for each detection; of equal IoUs the last one.
    """
    detection, target, iou = pairs
    count = len(detection)
    starts = np.flatnonzero(np.diff(detection, prepend=-1))
    group = np.repeat(np.arange(len(starts)), np.diff(starts, append=count))
    # The pairs of each group, the best one first.
    ranked = np.lexsort((-np.arange(count), -iou, ignored[target], group))
    ends = np.append(starts[1:], count)
    choice = starts.copy()  # the index into ``ranked``, for each group
    holder = np.full(len(ignored), len(starts))  # the first group that chose each object
    active = np.arange(len(starts))
    while len(active):
        wanted = target[ranked[choice[active]]]
        active, wanted = (column[~crowd[wanted]] for column in (active, wanted))
        before = holder[wanted]
        np.minimum.at(holder, wanted, active)
        displaced = before[(before > holder[wanted]) & (before < len(starts))]
        active = np.append(active[holder[wanted] != active], np.unique(displaced))
        choice[active] += 1
        active = active[choice[active] < ends[active]]
    matched = ranked[choice[choice < ends]]
    return Overlaps(detection[matched], target[matched], iou[matched])


def _sort_by_pair(
    entries: Sequence[Mapping[str, Any]],
    images: Mapping[Any, int],
    label_of: Mapping[Any, int],
    scores: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Sort entries by class, image and descending score; return their (class, image) and index.

    A pair of class and image is numbered ``class * number of images + image``. Entries of other
    classes are left out.
    """
    # One pass over the entries in their order: visiting them in another order is slow.
    label, image = (
        np.array([index_of.get(entry[key], -1) for entry in entries], np.int64)
        for index_of, key in ((label_of, "category_id"), (images, "image_id"))
    )
    index = np.flatnonzero(label >= 0)
    pair = label[index] * len(images) + image[index]
    order = np.lexsort((pair,) if scores is None else (-scores[index], pair))
    return pair[order], index[order]


def _find_overlaps(
    ious: IoUs,
    pair: np.ndarray,
    object_pair: np.ndarray,
    image_ids: Sequence[Any],
    ids: Sequence[int],
) -> Overlaps:
    """Find the detections and objects that overlap; both are sorted by pair."""
    pairs, starts = np.unique(pair, return_index=True)
    object_starts = np.searchsorted(object_pair, pairs)
    counts = np.searchsorted(object_pair, pairs, side="right") - object_starts
    has_objects = counts > 0
    pairs, starts, object_starts, counts = (
        column[has_objects] for column in (pairs, starts, object_starts, counts)
    )
    blocks = [
        np.asarray(ious[image_ids[number % len(image_ids)], ids[number // len(image_ids)]])
        for number in pairs.tolist()
    ]
    if not blocks:
        return Overlaps(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    flat = np.concatenate([block.ravel() for block in blocks]).astype(np.float64)
    ends = np.cumsum([block.size for block in blocks])
    entries = np.flatnonzero(flat > 0)
    block = np.searchsorted(ends, entries, side="right")
    offset = entries - np.concatenate([[0], ends[:-1]])[block]
    detection = starts[block] + offset // counts[block]
    target = object_starts[block] + offset % counts[block]
    return Overlaps(detection, target, flat[entries])


def _areas(results: Sequence[Mapping[str, Any]], iou_type: str) -> np.ndarray:
    """Return the areas of boxes or masks in square pixels."""
    # The libraries add a box to a mask, and a polygon to a box.
    if iou_type == "bbox":
        boxes = [result["bbox"] for result in results]
        return np.array([float(box[2]) * float(box[3]) for box in boxes], np.float64)
    # One by one: pycocotools 2.0.11 with NumPy 2 fails for a list of more than 255 masks.
    return np.array([mask_util.area(result["segmentation"]) for result in results], np.float64)


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
