"""Confusion matrix of detected and annotated classes, with background."""

from __future__ import annotations

import numpy as np

from ranking_det.evaluation.matching import (
    Detections,
    Matches,
    Overlaps,
    free_objects,
    match_greedily,
)


def confusion_matrix(
    detections: Detections,
    matches: Matches,
    cross_class: Overlaps,
    threshold: float,
    *,
    min_iou: float = 0.5,
) -> np.ndarray:
    """Compute a confusion matrix: how often objects of each class are detected as which class.

    Detections that reach the threshold are first matched within their classes, as for AP, so the
    diagonal has the true positives of precision and recall. The others take, by descending score,
    the free object of another class with the highest IoU. Detections and objects that are still
    unmatched count as matched with the background. Ignored detections and crowds do not count.

    Args:
        detections: the detections of all images.
        matches: their matches at ``min_iou``.
        cross_class: the objects of other classes that they overlap, computed with a minimum IoU of
            at most ``min_iou``.
        threshold: minimum score of the detections that count.
        min_iou: minimum IoU of a match, in (0, 1].

    Returns:
        (K + 1, K + 1) int64: rows are the objects' classes, columns those of the detections; the
        last is the background. The last row has the false positives, the last column the missed
        objects.
    """
    objects, background = detections.objects, detections.num_classes
    shape = (background + 1, background + 1)
    is_counted = (detections.score >= threshold) & ~matches.ignored
    true = is_counted & (matches.iou > 0)
    object_free, false = free_objects(detections, matches, true), is_counted & ~true
    pairs = false[cross_class.detection] & object_free[cross_class.target]
    pairs &= cross_class.iou >= min_iou
    detection, target, iou = (column[pairs] for column in cross_class)
    # A stable order: objects of a detection stay together, equal scores in their order.
    order = np.lexsort((target, detection, -detections.score[detection]))
    none = np.zeros(len(objects.label), bool)
    matched = match_greedily(Overlaps(detection[order], target[order], iou[order]), none, none)
    actual = np.full(len(detections.label), background)
    actual[true] = detections.label[true]
    actual[matched.detection] = objects.label[matched.target]
    object_free[matched.target] = False
    matrix = np.zeros(shape, np.int64)
    np.add.at(matrix, (actual[is_counted], detections.label[is_counted]), 1)
    matrix[:background, background] = np.bincount(objects.label[object_free], minlength=background)
    return matrix
