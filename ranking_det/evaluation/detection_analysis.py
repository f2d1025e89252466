"""All metrics of detections: AP, oLRP, pooled AP, correlation, F1, confusion, error kinds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ranking_det.evaluation import error_kinds
from ranking_det.evaluation.confusion import confusion_matrix
from ranking_det.evaluation.correlation import best_ious, correlate
from ranking_det.evaluation.cross_class_iou import cross_class_overlaps
from ranking_det.evaluation.lrp import mean_of_defined
from ranking_det.evaluation.matching import (
    Detections,
    Matches,
    Overlaps,
    counted_rows,
    match,
)
from ranking_det.evaluation.metrics import (
    COLUMNS,
    DetectionEvaluation,
    evaluation_metrics,
    overall,
    per_class,
)
from ranking_det.evaluation.precision_recall import (
    IOUS,
    best_f1_threshold,
    curve_of,
    operating_point,
    pooled_ap,
    thin,
)

MIN_IOU = error_kinds.MIN_IOU
"""Minimum IoU of a match for the metrics at a single IoU."""

CURVE = ("threshold", "precision", "recall", "f1")
"""The columns of a curve."""


def analyze_detections(
    evaluation: DetectionEvaluation,
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    iou_type: str,
    *,
    score_threshold: float | None = None,
) -> dict[str, Any]:
    """Compute all metrics of detections, overall and per class.

    Args:
        evaluation: what :func:`ranking_det.evaluation.metrics.evaluate_detections` returned for
            these files.
        ground_truth: the content of an annotation file, complete for evaluation.
        results: the content of a result file.
        iou_type: "bbox" or "segm".
        score_threshold: minimum score of the detections that precision, recall, F1 and the
            confusion matrix count; default: the threshold of the highest F1 of all classes
            together, and all detections if there is no true positive.

    Returns:
        ``score_threshold``, ``overall``, ``classes`` and ``confusion_matrix``, as
        ``docs/evaluation.md`` describes. Undefined numbers are NaN, such as the threshold if all
        detections count.
    """
    detections, names = evaluation.detections, evaluation.names
    metrics = evaluation_metrics(evaluation)
    matches = match(detections, min_iou=MIN_IOU)
    cross_class = cross_class_overlaps(
        ground_truth, results, detections, iou_type, min_iou=error_kinds.BACKGROUND_IOU
    )
    if score_threshold is None:
        score_threshold = best_f1_threshold(curve_of(detections, matches))
    min_score = -math.inf if math.isnan(score_threshold) else score_threshold
    ious = best_ious(detections)
    errors = _error_costs(detections, matches, cross_class)
    numbers = [
        {**_class_metrics(detections, matches, ious, label, min_score), "errors": kinds}
        for label, kinds in zip((None, *range(len(names))), errors, strict=True)
    ]
    matrix = confusion_matrix(detections, matches, cross_class, min_score, min_iou=MIN_IOU)
    columns = {column: per_class(metrics, names, column) for column in COLUMNS}
    return {
        "score_threshold": score_threshold,
        "overall": {**overall(metrics), **pooled_metrics(detections), **numbers[0]},
        "classes": {
            name: {**{column: values[name] for column, values in columns.items()}, **row}
            for name, row in zip(names, numbers[1:], strict=True)
        },
        "confusion_matrix": {"classes": [*names, "background"], "counts": matrix.tolist()},
    }


def pooled_metrics(detections: Detections) -> dict[str, float]:
    """Compute pooled AP in percent: ``pooledAP``, ``pooledAP50`` and ``pooledAP75``.

    Args:
        detections: the detections of all images.

    Returns:
        The metrics; NaN without objects.
    """
    values = [100 * pooled_ap(detections, match(detections, min_iou=iou)) for iou in IOUS]
    return {
        "pooledAP": sum(values) / len(values),
        "pooledAP50": values[0],
        "pooledAP75": values[5],
    }


def _class_metrics(
    detections: Detections,
    matches: Matches,
    ious: np.ndarray,
    label: int | None,
    min_score: float,
) -> dict[str, Any]:
    """Return correlation, precision and recall of a class, or of all."""
    rows = counted_rows(detections, matches, label)
    rows_on_objects = rows[ious[rows] > MIN_IOU]
    correlation = correlate(detections.score[rows_on_objects], ious[rows_on_objects])
    curve = curve_of(detections, matches, label)
    thinned = thin(curve)._asdict()
    return {
        "correlation": correlation._asdict(),
        "at_threshold": operating_point(curve, min_score)._asdict(),
        "curve": {name: thinned[name].tolist() for name in CURVE},
    }


def _error_costs(
    detections: Detections, matches: Matches, cross_class: Overlaps
) -> list[dict[str, Any]]:
    """Return the number of errors of each kind and the AP they cost, of all classes and of each."""
    errors = error_kinds.classify_errors(detections, matches, cross_class)
    ap50, corrected = error_kinds.oracle_ap(detections, matches, errors)
    counts = error_kinds.count_errors(detections, errors)
    mean_ap50 = mean_of_defined(ap50.tolist())
    rows = [{"AP50": 100 * ap} for ap in (mean_ap50, *ap50.tolist())]
    for kind, values in corrected.items():
        gains = [mean_of_defined(values.tolist()) - mean_ap50, *(values - ap50).tolist()]
        totals = [int(counts[kind].sum()), *counts[kind].tolist()]
        for row, count, gain in zip(rows, totals, gains, strict=True):
            row[kind] = {"count": count, "AP": 100 * gain}
    return rows
