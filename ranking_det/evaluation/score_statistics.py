"""Statistics of scores: histograms, calibration errors and thresholds of a result file."""

from __future__ import annotations

from typing import Any

import numpy as np

from ranking_det.evaluation.calibration import calibration_errors
from ranking_det.evaluation.correlation import best_ious
from ranking_det.evaluation.matching import Detections, Matches, counted_rows
from ranking_det.evaluation.thresholds import ThresholdSweep, fit_thresholds

NUM_BINS = 40
"""Number of bins of the scores and of the IoUs."""

NUM_THRESHOLDS = 41
"""Number of thresholds at which metrics are computed, equally spaced over the scores."""


def score_range(scores: np.ndarray) -> tuple[float, float]:
    """Return the range of scores to plot: from 0, or the lowest score below it, to the highest.

    Args:
        scores: (D,) scores of a detector. Those of another one may have another scale.

    Returns:
        (low, high) with low < high.
    """
    low, high = (float(end) for end in (scores.min(initial=0), scores.max(initial=-np.inf)))
    return low, high if high > low else low + 1


def score_histogram(
    detections: Detections, matches: Matches, limits: tuple[float, float]
) -> dict[str, list[float]]:
    """Count true and false positives by score.

    Args:
        detections: the detections of all images.
        matches: their matches.
        limits: the range of the scores.

    Returns:
        ``edges`` of the B bins (B + 1), and ``true_positives`` and ``false_positives`` (B).
    """
    rows = counted_rows(detections, matches)
    edges = np.linspace(*limits, NUM_BINS + 1)
    true = matches.iou[rows] > 0
    return {
        "edges": edges.tolist(),
        "true_positives": np.histogram(detections.score[rows[true]], edges)[0].tolist(),
        "false_positives": np.histogram(detections.score[rows[~true]], edges)[0].tolist(),
    }


def score_iou_histogram(
    detections: Detections, matches: Matches, limits: tuple[float, float]
) -> dict[str, list[Any]]:
    """Count the detections whose IoU with an object is above .5, by score and IoU.

    Args:
        detections: the detections of all images.
        matches: their matches.
        limits: the range of the scores.

    Returns:
        ``scores`` (B + 1) and ``ious`` (B' + 1), edges of bins; ``counts`` (B', B).
    """
    rows = counted_rows(detections, matches)
    ious = best_ious(detections)[rows]
    on_object = ious > 0.5
    edges = np.linspace(0.5, 1, NUM_BINS // 2 + 1), np.linspace(*limits, NUM_BINS + 1)
    # The IoU of masks may be a rounding error above 1.
    values = np.minimum(ious[on_object], 1), detections.score[rows[on_object]]
    counts = np.histogram2d(*values, edges)[0].astype(np.int64)
    return {"scores": edges[1].tolist(), "ious": edges[0].tolist(), "counts": counts.tolist()}


def image_halves(num_images: int, seed: int = 0) -> np.ndarray:
    """Split images into two halves at random: one to fit to, and one to measure on.

    Args:
        num_images: number of images N.
        seed: seed of the choice.

    Returns:
        (N,) bool, which half an image is in. The half with False has one more of an odd number.
    """
    return np.random.default_rng(seed).permutation(num_images) % 2 == 1


def cross_fitted_calibration(
    detections: Detections, matches: Matches, half: np.ndarray
) -> dict[str, Any] | None:
    """Compute calibration errors, with LRP-optimal thresholds from other images.

    For the detections in each half of the images, the threshold of a class comes from the other
    half. A class without a true positive there takes the threshold of all classes together.

    Args:
        detections: the D detections of all images.
        matches: their matches at IoU .5.
        half: (N,) bool, which half each image is in; see :func:`image_halves`.

    Returns:
        ``overall``, errors in percent, and the reliability diagrams ``precision`` and ``iou``, each
        with ``count``, ``score`` and ``target``; NaN where undefined. None if a score is not
        between 0 and 1.
    """
    scores = detections.score
    if ((scores < 0) | (scores > 1)).any():
        return None
    selected = np.zeros(len(scores), bool)
    in_half, objects = half[detections.image], detections.objects
    for part in (False, True):
        is_counted = ~objects.crowd & (half[objects.image] == part)
        numbers = np.bincount(objects.label[is_counted], minlength=detections.num_classes)
        other = in_half != part
        part_matches = matches._replace(ignored=matches.ignored | other, num_objects=numbers)
        thresholds = fit_thresholds(detections, part_matches)[0]["lrp"].classes
        selected[other] = scores[other] >= np.array(thresholds)[detections.label[other]]
    errors = calibration_errors(detections, selected)
    return {"overall": errors.overall, **errors.diagrams()}


def threshold_numbers(
    detections: Detections, matches: Matches, limits: tuple[float, float], num_images: int
) -> dict[str, Any]:
    """Compute metrics at many thresholds, and the best thresholds.

    Args:
        detections: the detections of all images.
        matches: their matches at IoU .5.
        limits: the range of the scores.
        num_images: number of images, >= 1.

    Returns:
        ``rows``: see :meth:`ranking_det.evaluation.thresholds.ThresholdSweep.rows`. ``best``:
        thresholds for all classes by name: ``lrp``, ``f1`` and ``precision`` as in
        :data:`~ranking_det.evaluation.thresholds.KINDS`, and ``largest``, the largest that loses at
        most :data:`~ranking_det.evaluation.thresholds.MAX_LOSS` AP points; NaN where undefined.
    """
    sweep = ThresholdSweep(detections)
    rows = sweep.rows(np.linspace(*limits, NUM_THRESHOLDS).tolist(), num_images)
    best = {name: kind.overall for name, kind in fit_thresholds(detections, matches)[0].items()}
    return {"rows": rows, "best": {**best, "largest": sweep.largest_threshold()}}
