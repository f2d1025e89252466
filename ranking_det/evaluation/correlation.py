"""Correlation of score and IoU: Pearson's, Spearman's and Kendall's coefficients.

For a high AP, scores should order detections by their IoU. As in table 5 of D. Xu, J. Deng, W. Li:
Revisiting AP Loss for Dense Object Detection: Adaptive Ranking Pair Selection, CVPR 2022, the
detections are those after NMS whose IoU with an object is above .5.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
from scipy import stats

from ranking_det.evaluation.matching import Detections


class Correlation(NamedTuple):
    """Correlation coefficients of the scores and IoUs of N detections; NaN if undefined.

    Attributes:
        count: N.
        pearson: correlation of the values, in [-1, 1].
        spearman: correlation of the ranks, in [-1, 1].
        kendall: tau-b, the share of pairs in the same order minus that of pairs in opposite order,
            corrected for ties, in [-1, 1].
    """

    count: int
    pearson: float
    spearman: float
    kendall: float


def correlate(scores: np.ndarray, ious: np.ndarray) -> Correlation:
    """Compute Pearson's, Spearman's and Kendall's correlation of scores and IoUs.

    Args:
        scores: (N,) scores.
        ious: (N,) IoUs.

    Returns:
        The coefficients, NaN with fewer than two detections, or if all scores or all IoUs are
        equal.
    """
    count = len(scores)
    if count < 2 or np.ptp(scores) == 0 or np.ptp(ious) == 0:
        return Correlation(count, math.nan, math.nan, math.nan)
    with warnings.catch_warnings():
        # Nearly equal values only make the coefficient inexact, so no warning is needed.
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        pearson = stats.pearsonr(scores, ious).statistic
    spearman = stats.spearmanr(scores, ious).statistic
    kendall = stats.kendalltau(scores, ious).statistic
    return Correlation(count, float(pearson), float(spearman), float(kendall))


def best_ious(detections: Detections) -> np.ndarray:
    """Return the IoU of each detection with the object of its class that it overlaps most.

    Unlike in matching, several detections may have the same object. Crowds do not count.

    Args:
        detections: the D detections of all images.

    Returns:
        (D,) float64 in [0, 1].
    """
    overlaps = detections.overlaps
    is_counted = ~detections.objects.crowd[overlaps.target]
    ious = np.zeros(len(detections.score))
    np.maximum.at(ious, overlaps.detection[is_counted], overlaps.iou[is_counted])
    return ious
