"""Ranking errors of single images: false positives that have a higher score than an object.

The error of a detected object is a / (a + t): a false positives of its image, of any class, have a
higher score, and t true positives, itself included, have its score or a higher one. AP Loss sums
such errors over the positives of a batch (K. Chen et al.: Towards Accurate One-Stage Object
Detection with AP-Loss, CVPR 2019); here they are computed after NMS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ranking_det.evaluation.cross_class_iou import cross_class_overlaps
from ranking_det.evaluation.error_kinds import BACKGROUND_IOU, FALSE_POSITIVE_KINDS, classify_errors
from ranking_det.evaluation.matching import Detections, Matches, counted_rows, free_objects, match
from ranking_det.evaluation.metrics import FIELDS, Rules, evaluate_detections

MAX_OBJECTS, MAX_FALSE = 4, 5
"""Maximum numbers of objects and of false positives in the description of an image."""


class ObjectRanking(NamedTuple):
    """The rank of T detected objects among the detections of their images.

    Attributes:
        row: (T,) int64, index of the detection that is matched with the object.
        above: (T,) int64, number of false positives of the image with a higher score.
        error: (T,) float64, a / (a + t) in [0, 1), with a = ``above`` and t true positives of at
            least the object's score, itself included.
    """

    row: np.ndarray
    above: np.ndarray
    error: np.ndarray


def rank_objects(detections: Detections, matches: Matches) -> ObjectRanking:
    """Rank the true positives of each image among its false positives.

    Args:
        detections: the D detections of all images.
        matches: their matches. Ignored detections have no rank.

    Returns:
        The ranking of the matched detections.
    """
    rows = counted_rows(detections, matches)
    score, image = detections.score[rows], detections.image[rows]
    order = np.lexsort((-score, image))
    rows, score, image = rows[order], score[order], image[order]
    true = matches.iou[rows] > 0
    # Detections of equal score rank equally: none of them is above another.
    first = _starts(image, score)
    last = len(rows) - 1 - _starts(image[::-1], score[::-1])[::-1]
    image_start = _starts(image)
    hits = np.concatenate([[0], np.cumsum(true)])
    false = np.arange(len(rows) + 1) - hits
    above = (false[first] - false[image_start])[true]
    hits_above = (hits[last + 1] - hits[image_start])[true]
    return ObjectRanking(rows[true], above, above / (above + hits_above))


def _starts(*columns: np.ndarray) -> np.ndarray:
    """Return for each row the index of the first row of its run of equal values."""
    if not len(columns[0]):
        return np.zeros(0, np.int64)
    new = np.ones(len(columns[0]), bool)
    new[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return np.flatnonzero(new)[np.cumsum(new) - 1]


class ImageErrors(NamedTuple):
    """Ranking errors of N images.

    Attributes:
        error: (N,) float64, the sum of the errors of the detected objects.
        detected: (N,) int64, number of detected objects.
    """

    error: np.ndarray
    detected: np.ndarray


def image_errors(detections: Detections, matches: Matches, num_images: int) -> ImageErrors:
    """Sum the ranking errors of the objects of each image.

    Args:
        detections: the D detections of all images.
        matches: their matches.
        num_images: number of images N.

    Returns:
        The errors, in the order of the images in the ground truth.
    """
    ranking = rank_objects(detections, matches)
    image_of_object = detections.image[ranking.row]
    return ImageErrors(
        np.bincount(image_of_object, ranking.error, num_images),
        np.bincount(image_of_object, None, num_images),
    )


def choose_images(
    errors: Sequence[ImageErrors], num_worst: int, num_best: int
) -> tuple[list[int], list[int]]:
    """Choose the images with the largest and with the smallest ranking errors.

    Args:
        errors: the errors of the same N images, for each detector.
        num_worst: maximum number of images with large errors.
        num_best: maximum number of images with small errors.

    Returns:
        Two lists of indices: the images with the largest error of any detector, if it is above 0;
        and, of the remaining images in which every detector detects an object, those with the
        smallest error, of equal errors those with the most detected objects.
    """
    error = np.max([values.error for values in errors], axis=0)
    detected = np.min([values.detected for values in errors], axis=0)
    worst = np.argsort(-error, kind="stable")[:num_worst]
    worst = worst[error[worst] > 0]
    by_error = np.lexsort((-detected, error))
    rest = by_error[(detected[by_error] > 0) & ~np.isin(by_error, worst)]
    return worst.tolist(), rest[:num_best].tolist()


def describe_ranking(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    iou_type: str,
    image: Mapping[str, Any],
    rules: Rules,
) -> dict[str, Any]:
    """Describe which false positives of an image outrank which of its objects.

    Args:
        ground_truth: the content of an annotation file, complete for evaluation.
        results: the results of the image.
        iou_type: "bbox" or "segm".
        image: the image's entry in the ground truth.
        rules: "coco" or "lvis".

    Returns:
        ``error``, the ranking error; ``detected``, ``missed`` and ``outranked``, numbers of
        objects; ``objects``, those with the largest errors, and ``false_positives``, those with the
        highest scores, each with its ``class``, ``score``, and ``bbox`` (x, y, width, height in
        pixels) or ``segmentation``. An object has the ``iou`` of its detection, and ``above``, the
        number of false positives above it. A false positive has the ``kind`` of its error.
    """
    annotations = [a for a in ground_truth["annotations"] if a["image_id"] == image["id"]]
    content = {**ground_truth, "images": [image], "annotations": annotations}
    evaluation = evaluate_detections(content, results, iou_type, rules=rules)
    detections, names = evaluation.detections, evaluation.names
    matches = match(detections)
    cross_class = cross_class_overlaps(
        content, results, detections, iou_type, min_iou=BACKGROUND_IOU
    )
    kinds = classify_errors(detections, matches, cross_class).kind
    ranking = rank_objects(detections, matches)
    true = np.zeros(len(detections.score), bool)
    true[ranking.row] = True
    false = np.flatnonzero(~matches.ignored & ~true)
    false = false[np.argsort(-detections.score[false], kind="stable")]
    objects = np.lexsort((detections.score[ranking.row], -ranking.error))

    field = FIELDS[iou_type]

    def scored(row: int) -> dict[str, Any]:
        label, score = detections.label[row], detections.score[row]
        return {"class": names[label], "score": float(score)}

    return {
        "error": float(ranking.error.sum()),
        "detected": len(ranking.row),
        "missed": int(free_objects(detections, matches, true).sum()),
        "outranked": int((ranking.above > 0).sum()),
        "objects": [
            {
                **scored(row := ranking.row[i]),
                "iou": float(matches.iou[row]),
                "above": int(ranking.above[i]),
                field: annotations[matches.target[row]][field],
            }
            for i in objects[:MAX_OBJECTS]
        ],
        "false_positives": [
            {
                **scored(row),
                "kind": FALSE_POSITIVE_KINDS[kinds[row]],
                field: results[detections.result[row]][field],
            }
            for row in false[:MAX_FALSE]
        ],
    }
