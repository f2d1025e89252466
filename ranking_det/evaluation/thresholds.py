"""Score thresholds: which one to use, and what AP, F1 and LRP are at each.

A detection passes a threshold if its score is at least the threshold. Matching is by descending
score, so that the detections below a threshold do not change the matches of those above it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ranking_det.evaluation.lrp import mean_of_defined, optimal_lrp
from ranking_det.evaluation.matching import (
    Detections,
    Matches,
    counted_rows,
    match,
    rows_by_class,
)
from ranking_det.evaluation.precision_recall import (
    IOUS,
    RECALLS,
    PrecisionRecallCurve,
    best_f1_threshold,
    curve_of,
)

KINDS = ("lrp", "f1", "precision")
"""Kinds of thresholds: the smallest LRP error, the highest F1, or a precision that is reached."""

PRECISION = 0.9
"""Default precision of the thresholds of the kind "precision"."""

MAX_LOSS = 0.1
"""AP points that the largest threshold for all classes may lose."""


class Thresholds(NamedTuple):
    """Thresholds of one kind.

    Attributes:
        overall: the threshold for all detections in one list; NaN if there is none.
        classes: K thresholds; NaN for a class that never reaches the precision.
    """

    overall: float
    classes: list[float]


def precision_threshold(curve: PrecisionRecallCurve, precision: float) -> float:
    """Return the lowest score threshold with at least a given precision.

    Args:
        curve: the curve.
        precision: in (0, 1].

    Returns:
        The threshold; NaN if no threshold reaches the precision.
    """
    reached = np.flatnonzero(curve.precision >= precision)
    return float(curve.threshold[reached[-1]]) if len(reached) else math.nan


def fit_thresholds(
    detections: Detections, matches: Matches, precision: float = PRECISION
) -> tuple[dict[str, Thresholds], list[int]]:
    """Find the LRP-optimal and F1-optimal thresholds, and those that reach a precision.

    A class without a true positive takes the overall thresholds.

    Args:
        detections: the detections of images that are not used to measure the result.
        matches: their matches at IoU .5.
        precision: the precision to reach, in (0, 1].

    Returns:
        The thresholds by kind, and the indices of the classes without a true positive.
    """
    labels = [*range(detections.num_classes), None]
    unmatched_classes, values_by_kind = [], {kind: [] for kind in KINDS}
    for label in labels:
        rows = counted_rows(detections, matches, label)
        scores, ious = detections.score[rows], matches.iou[rows]
        curve = curve_of(detections, matches, label)
        values_by_kind["lrp"].append(optimal_lrp(scores, ious, curve.num_objects).threshold)
        values_by_kind["f1"].append(best_f1_threshold(curve))
        values_by_kind["precision"].append(precision_threshold(curve, precision))
        if label is not None and not ious.any():
            unmatched_classes.append(label)
    thresholds = {}
    for kind, (*classes, overall) in values_by_kind.items():
        for k in unmatched_classes:
            classes[k] = overall
        thresholds[kind] = Thresholds(overall, classes)
    return thresholds, unmatched_classes


class _Curve(NamedTuple):
    """Detections of a class at one IoU, by descending score."""

    scores: np.ndarray
    precision: np.ndarray
    first: (
        np.ndarray
    )  # (101,) index of the first detection that reaches each recall, or len(scores)


class ThresholdSweep:
    """AP, F1, LRP and the number of detections above score thresholds.

    Args:
        detections: the detections of all classes.
    """

    def __init__(self, detections: Detections) -> None:
        self.detections = detections
        at_ious = [match(detections, min_iou=iou) for iou in IOUS]
        self._matches: Matches = at_ious[0]
        self._curves = [curve for matches in at_ious for curve in _curves(detections, matches)]

    def average_precision(self, threshold: float) -> float:
        """Compute AP in percent without the detections below a threshold; NaN without objects.

        Args:
            threshold: a score.
        """
        values = []
        for curve in self._curves:
            count = np.searchsorted(-curve.scores, -threshold, side="right")
            best = np.maximum.accumulate(curve.precision[:count][::-1])[::-1]
            values.append(float(best[curve.first[curve.first < count]].sum()) / len(RECALLS))
        return 100 * mean_of_defined(values)

    def largest_threshold(self, max_loss: float = MAX_LOSS) -> float:
        """Find the largest threshold for all classes that loses hardly any AP.

        Args:
            max_loss: AP points that may be lost.

        Returns:
            The threshold; NaN without detections or objects.
        """
        scores = np.unique(self.detections.score)
        if not len(scores) or not self._curves:
            return math.nan
        # AP never rises with the threshold.
        min_ap = self.average_precision(scores[0]) - max_loss
        low, high = 0, len(scores)
        while high - low > 1:
            middle = (low + high) // 2
            if self.average_precision(scores[middle]) >= min_ap:
                low = middle
            else:
                high = middle
        return float(scores[low])

    def rows(self, thresholds: Sequence[float], num_images: int) -> list[dict[str, float]]:
        """Compute AP, F1, LRP and detections per image at each threshold.

        Args:
            thresholds: scores.
            num_images: number of images, >= 1.

        Returns:
            For each threshold: ``threshold``; ``AP``, ``F1`` and ``LRP`` in percent, means over the
            classes with objects; and ``detections`` per image.
        """
        return [
            {
                "threshold": threshold,
                "AP": self.average_precision(threshold),
                **self._f1_and_lrp(threshold),
                "detections": int((self.detections.score >= threshold).sum()) / num_images,
            }
            for threshold in thresholds
        ]

    def _f1_and_lrp(self, threshold: float) -> dict[str, float]:
        """Compute F1 and LRP in percent at IoU .5, as means over the classes with objects."""
        matches, detections = self._matches, self.detections
        passing = ~matches.ignored & (detections.score >= threshold)
        f1, lrp = [], []
        for rows, number in zip(
            rows_by_class(detections, passing), matches.num_objects.tolist(), strict=True
        ):
            if number:
                ious = matches.iou[rows]
                true = int((ious > 0).sum())
                false, missed = len(rows) - true, number - true
                f1.append(2 * true / (len(rows) + number))
                distance = (true - float(ious.sum())) / 0.5
                lrp.append((distance + false + missed) / (true + false + missed))
        return {"F1": 100 * mean_of_defined(f1), "LRP": 100 * mean_of_defined(lrp)}


def _curves(detections: Detections, matches: Matches) -> list[_Curve]:
    """Return the curve of each class with objects."""
    curves = []
    for rows, number in zip(
        rows_by_class(detections, ~matches.ignored), matches.num_objects.tolist(), strict=True
    ):
        if number:
            true = np.cumsum(matches.iou[rows] > 0)
            precision = true / np.arange(1, len(rows) + 1)
            first = np.searchsorted(true / number, RECALLS)
            curves.append(_Curve(detections.score[rows], precision, first))
    return curves
