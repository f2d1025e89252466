"""Precision, recall and F1 at every score threshold, and pooled AP.

A detection is a true positive if it is matched with an object by COCO's rules
(:func:`ranking_det.evaluation.matching.match`), else a false positive, unless it is ignored.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ranking_det.evaluation.matching import Detections, Matches, counted_rows

RECALLS = np.linspace(0, 1, 101)
"""The 101 recalls at which AP averages the precision: 0, .01, ..., 1. As in COCO's evaluation,
rounding puts some of them above i / 100, so a recall of 7 / 10 is below .7."""

IOUS = np.linspace(0.5, 0.95, 10)
"""The IoUs over which AP is averaged."""


class OperatingPoint(NamedTuple):
    """The detections whose score is at least a threshold. NaN: undefined.

    Attributes:
        true_positives: number of matched detections.
        false_positives: number of unmatched detections that are not ignored.
        num_objects: number of objects that are not ignored, detected or not.
        precision: true positives over detections, in [0, 1]; NaN without detections.
        recall: true positives over objects, in [0, 1]; NaN without objects.
        f1: harmonic mean of precision and recall, in [0, 1]: 2 TP / (detections + objects). 0 with
            objects but no detections, NaN without objects.
    """

    true_positives: int
    false_positives: int
    num_objects: int
    precision: float
    recall: float
    f1: float


class PrecisionRecallCurve(NamedTuple):
    """Precision, recall and F1 at N thresholds: all distinct scores, in descending order.

    Attributes:
        threshold: (N,) float64, the scores; detections of at least this score count.
        true_positives: (N,) int64.
        false_positives: (N,) int64.
        num_objects: number of objects that are not ignored.
        precision: (N,) float64 in [0, 1].
        recall: (N,) float64 in [0, 1]; NaN without objects.
        f1: (N,) float64 in [0, 1]; NaN without objects.
    """

    threshold: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    num_objects: int
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


def precision_recall_curve(
    scores: np.ndarray, true: np.ndarray, num_objects: int
) -> PrecisionRecallCurve:
    """Compute precision, recall and F1 at every threshold.

    Args:
        scores: (D,) scores of the detections that are not ignored, in any order.
        true: (D,) bool, whether they are true positives.
        num_objects: number of objects that are not ignored, >= 0.

    Returns:
        The curve, with one point for each distinct score.
    """
    order = np.argsort(-scores, kind="stable")
    scores, true = scores[order], true[order]
    # Keep the last detection of each score, because a threshold cannot separate equal scores.
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(scores)])
    true_positives = np.cumsum(true, dtype=np.int64)[last]
    detected = last + 1
    undefined = np.full(len(last), math.nan)
    return PrecisionRecallCurve(
        scores[last],
        true_positives,
        detected - true_positives,
        num_objects,
        true_positives / detected,
        true_positives / num_objects if num_objects else undefined,
        2 * true_positives / (detected + num_objects) if num_objects else undefined,
    )


def operating_point(curve: PrecisionRecallCurve, threshold: float) -> OperatingPoint:
    """Return precision, recall and F1 of the detections whose score is at least a threshold.

    Args:
        curve: the curve.
        threshold: the minimum score, not necessarily one of the curve's; -inf for all detections.

    Returns:
        The numbers at this threshold.
    """
    count = int(np.searchsorted(-curve.threshold, -threshold, side="right"))
    if not count:
        recall = 0.0 if curve.num_objects else math.nan
        return OperatingPoint(0, 0, curve.num_objects, math.nan, recall, recall)
    true, false = (int(c[count - 1]) for c in (curve.true_positives, curve.false_positives))
    values = (float(c[count - 1]) for c in (curve.precision, curve.recall, curve.f1))
    return OperatingPoint(true, false, curve.num_objects, *values)


def best_f1_threshold(curve: PrecisionRecallCurve) -> float:
    """Return the score threshold with the highest F1; of equal ones the highest.

    Args:
        curve: the curve.

    Returns:
        The score; NaN without a true positive.
    """
    if not curve.num_objects or not curve.true_positives.any():
        return math.nan
    return float(curve.threshold[curve.f1.argmax()])


def thin(curve: PrecisionRecallCurve) -> PrecisionRecallCurve:
    """Thin a curve to the points at which the recall reaches 0, .01, ..., 1, and the last one.

    Args:
        curve: the curve, of any length.

    Returns:
        A curve of at most 102 points, enough to draw it; no points if there are no objects.
    """
    if not curve.num_objects:
        index = np.zeros(0, np.int64)
    else:
        index = np.searchsorted(curve.recall, RECALLS)
        index = np.unique(np.append(index, len(curve.recall) - 1))
        index = index[(index >= 0) & (index < len(curve.recall))]
    columns = (c if isinstance(c, int) else c[index] for c in curve)
    return PrecisionRecallCurve(*columns)


def curve_of(
    detections: Detections, matches: Matches, label: int | None = None
) -> PrecisionRecallCurve:
    """Compute the precision-recall curve of a class, or of the detections of all classes.

    Args:
        detections: the detections of all images.
        matches: their matches.
        label: index of the class; None to count the detections and objects of all classes.

    Returns:
        The curve.
    """
    rows = counted_rows(detections, matches, label)
    objects = matches.num_objects if label is None else matches.num_objects[label]
    return precision_recall_curve(detections.score[rows], matches.iou[rows] > 0, int(objects.sum()))


def ranking_ap(true: np.ndarray, num_objects: int) -> float:
    """Compute the AP of a ranking of detections: the mean precision at the 101 :data:`RECALLS`.

    The precision at a recall is the highest at any recall that is at least as high
    (https://cocodataset.org/#detection-eval).

    Args:
        true: (D,) bool, whether the detections are true positives, by descending score.
        num_objects: number of objects.

    Returns:
        AP in [0, 1]; NaN without objects.
    """
    if not num_objects:
        return math.nan
    ranks = np.flatnonzero(true)
    if not len(ranks):
        return 0.0
    hits = np.arange(1, len(ranks) + 1)
    precision = np.maximum.accumulate((hits / (ranks + 1))[::-1])[::-1]
    index = np.searchsorted(hits / num_objects, RECALLS)
    return float(np.append(precision, 0.0)[index].mean())


def pooled_ap(detections: Detections, matches: Matches) -> float:
    """Compute pooled AP at one IoU: AP of one ranking of the detections of all classes.

    Unlike the mean of the classes' APs, it needs scores that can be compared between classes. A.
    Dave, P. Dollár, D. Ramanan, A. Kirillov, R. Girshick: Evaluating Large-Vocabulary Object
    Detectors: The Devil is in the Details, 2021. Detections with equal scores keep their order in
    ``detections``, which is by class.

    Args:
        detections: the detections of all images.
        matches: their matches at this IoU, within classes.

    Returns:
        AP in [0, 1]; NaN without objects.
    """
    rows = counted_rows(detections, matches)
    return ranking_ap(matches.iou[rows] > 0, int(matches.num_objects.sum()))


def mean_precision(precision: np.ndarray) -> dict[str, list[float]]:
    """Average the precision-recall curves of the classes, whose mean precision is AP.

    Args:
        precision: (T, R, K, A) precision, -1 where there are no objects; see
            :mod:`ranking_det.evaluation.libraries`.

    Returns:
        ``recall``, and the mean precision at IoU .5 and .75 as ``AP50`` and ``AP75``, (R,) each;
        empty without objects.
    """
    curves = precision[[0, 5], :, :, 0]
    defined = curves[:, :, (curves > -1).all(axis=(0, 1))]
    if not defined.size:
        return {"recall": [], "AP50": [], "AP75": []}
    ap50, ap75 = defined.mean(axis=2)
    recall = np.linspace(0, 1, len(ap50))
    return {"recall": recall.tolist(), "AP50": ap50.tolist(), "AP75": ap75.tolist()}
