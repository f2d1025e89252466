"""Optimal Localisation-Recall-Precision (oLRP) error: one number for the best score threshold.

K. Oksuz, B. C. Cam, E. Akbas, S. Kalkan: Localization Recall Precision (LRP), ECCV 2018.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ranking_det.evaluation.matching import AREAS, Detections, Matches, counted_rows, match


class OptimalLRP(NamedTuple):
    """The smallest LRP error over all score thresholds, and its parts. NaN: undefined.

    Attributes:
        error: the error in [0, 1]: 0 is perfect, 1 means no true positive. NaN without objects.
        localization: mean (1 - IoU) of the true positives, in [0, 1 - tau].
        false_positive: false positives over detections (1 - precision), in [0, 1].
        false_negative: missed objects over objects (1 - recall), in [0, 1].
        threshold: the score of the last detection above the optimal threshold.
    """

    error: float
    localization: float
    false_positive: float
    false_negative: float
    threshold: float


def optimal_lrp(
    scores: np.ndarray, ious: np.ndarray, num_objects: int, *, tau: float = 0.5
) -> OptimalLRP:
    """Compute the oLRP error of one class.

    Each prefix of the detections in descending order of score is a candidate, so that detections of
    equal score can be separated: LRP = (sum over TP of (1 - IoU) / (1 - tau) + FP + FN) / (TP + FP
    + FN).

    Args:
        scores: (D,) scores of the detections that are not ignored, in descending order.
        ious: (D,) IoU with the matched object, at least ``tau``; 0 for a false positive.
        num_objects: number of objects that are not ignored, >= 0.
        tau: minimum IoU of a match, in [0, 1).

    Returns:
        The error and its parts. Without objects, all are NaN. Without a true positive, the error
        and ``false_negative`` are 1, and the others are NaN.
    """
    nothing = (math.nan,) * 3
    if num_objects == 0:
        return OptimalLRP(math.nan, *nothing, math.nan)
    matched = ious > 0
    if not matched.any():
        return OptimalLRP(1.0, math.nan, math.nan, 1.0, math.nan)
    true = np.cumsum(matched)
    detected = np.arange(1, len(scores) + 1)
    distance = np.cumsum(np.where(matched, 1 - ious, 0.0))
    errors = (distance / (1 - tau) + detected - true + num_objects - true) / (
        detected - true + num_objects
    )
    errors[: matched.argmax()] = np.inf  # no true positive yet
    best = int(errors.argmin())
    count = int(true[best])
    return OptimalLRP(
        float(errors[best]),
        float(distance[best] / count),
        1 - count / int(detected[best]),
        1 - count / num_objects,
        float(scores[best]),
    )


def summarize(detections: Detections, names: Sequence[str]) -> dict[str, float]:
    """Average the oLRP errors over classes.

    Args:
        detections: the detections of all classes.
        names: the names of the K classes.

    Returns:
        In percent, NaN where undefined: ``oLRP``; its parts ``oLRPLoc``, ``oLRPFP`` and ``oLRPFN``;
        ``oLRPs``, ``oLRPm`` and ``oLRPl`` by COCO's ranges of the area; with more than one class,
        ``oLRP-<class>``. As a score, ``threshold-<class>``: the optimal threshold of each class.
        Classes for which a number is undefined do not count in its mean.
    """
    of_areas = [_of_classes(detections, match(detections, area=area)) for area in AREAS]
    errors, localization, false_positive, false_negative, _ = zip(*of_areas[0], strict=True)
    parts = {"": errors, "Loc": localization, "FP": false_positive, "FN": false_negative}
    parts |= {
        name: [lrp.error for lrp in of_classes]
        for name, of_classes in zip(list(AREAS)[1:], of_areas[1:], strict=True)
    }
    metrics = {f"oLRP{name}": 100 * mean_of_defined(values) for name, values in parts.items()}
    if len(names) > 1:
        errors_of = zip(names, errors, strict=True)
        metrics |= {f"oLRP-{name}": 100 * error for name, error in errors_of}
    thresholds = zip(names, of_areas[0], strict=True)
    return metrics | {f"threshold-{name}": lrp.threshold for name, lrp in thresholds}


def _of_classes(detections: Detections, matches: Matches) -> list[OptimalLRP]:
    """Compute the oLRP error of each class."""
    errors = []
    for k in range(detections.num_classes):
        rows, number = counted_rows(detections, matches, k), int(matches.num_objects[k])
        errors.append(optimal_lrp(detections.score[rows], matches.iou[rows], number))
    return errors


def mean_of_defined(values: Sequence[float]) -> float:
    """Average the values, ignoring NaN; return NaN if all are NaN.

    Args:
        values: such as the errors of the classes.
    """
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
