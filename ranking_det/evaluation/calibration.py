"""Calibration errors of scores, and calibrators that map scores to an expected IoU or precision.

D-ECE: F. Küppers, J. Kronenberger, A. Shantia, A. Haselhoff, CVPR Workshops 2020. LaECE: K. Oksuz,
T. Joy, P. K. Dokania, CVPR 2023. LaECE_0, LaACE_0: S. Kuzucu, K. Oksuz, J. Sadeghi, P. K. Dokania,
ECCV 2024.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from ranking_det.evaluation.lrp import mean_of_defined
from ranking_det.evaluation.matching import Detections, match, rows_by_class

Target = Literal["iou", "tp"]
Method = Literal["isotonic", "linear"]

NUM_BINS = 25
"""Number of equally wide bins of the score, from 0 to 1."""

MIN_SCORE = 0.3
"""D-ECE counts the detections with at least this score."""

MIN_DETECTIONS = 50
"""A class with fewer detections uses the calibrator that is fitted to all classes."""

TIE_BREAK = 1e-6
"""Share of the raw score in a calibrated score, which keeps the order within a plateau."""


class Reliability(NamedTuple):
    """A reliability diagram: B equally wide bins of the score, from 0 to 1.

    Attributes:
        count: (B,) int64, number of detections.
        score: (B,) mean score of the detections; NaN in an empty bin.
        target: (B,) what the mean score should be, such as the precision; NaN in an empty bin.
    """

    count: np.ndarray
    score: np.ndarray
    target: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error, in [0, 1]; NaN without detections."""
        filled = self.count > 0
        gaps = np.abs(self.score - self.target)[filled]
        return float(np.average(gaps, weights=self.count[filled])) if filled.any() else math.nan


def reliability(scores: np.ndarray, targets: np.ndarray, num_bins: int = NUM_BINS) -> Reliability:
    """Compute a reliability diagram, whose ``error`` is the expected calibration error.

    Args:
        scores: (D,) scores; those outside [0, 1] count in the first or the last bin.
        targets: (D,) what the scores should be, in [0, 1]: 1 for true positives and 0 for false
            ones (precision), or the IoU with the matched object and 0 without one.
        num_bins: number of bins B, >= 1.

    Returns:
        The diagram.
    """
    index = np.clip(np.floor(scores * num_bins).astype(np.int64), 0, num_bins - 1)
    count = np.bincount(index, minlength=num_bins)
    sums = [np.bincount(index, weights, num_bins) for weights in (scores, targets)]
    with np.errstate(invalid="ignore"):  # 0 / 0 in an empty bin
        return Reliability(count, sums[0] / count, sums[1] / count)


class CalibrationErrors(NamedTuple):
    """Calibration errors in percent; NaN without detections.

    Attributes:
        overall: ``D-ECE`` of all detections together, and the means of the other errors over the
            classes: ``D-ECE of classes``, ``LaECE``, ``LaECE_0`` and ``LaACE_0``.
        classes: K mappings with the ``D-ECE``, ``LaECE``, ``LaECE_0`` and ``LaACE_0`` of a class.
        precision: the diagram of ``D-ECE``: precision against score.
        iou: the diagram of ``LaECE_0`` for all classes together: mean IoU against score.
    """

    overall: dict[str, float]
    classes: list[dict[str, float]]
    precision: Reliability
    iou: Reliability

    def diagrams(self) -> dict[str, dict[str, list[float]]]:
        """Return the arrays of the two reliability diagrams as lists, for JSON."""
        diagrams = {"precision": self.precision, "iou": self.iou}
        return {
            name: {key: values.tolist() for key, values in diagram._asdict().items()}
            for name, diagram in diagrams.items()
        }


def calibration_errors(
    detections: Detections,
    selected: np.ndarray,
    *,
    tau: float = 0.5,
    min_score: float = MIN_SCORE,
    num_bins: int = NUM_BINS,
) -> CalibrationErrors:
    """Compute calibration errors: D-ECE, LaECE, LaECE_0 and LaACE_0, of all classes and of each.

    D-ECE compares scores with precision. LaECE compares them with precision x mean IoU of the true
    positives, which is the mean IoU of all detections if a false positive counts as IoU 0.
    LaECE_0 matches at any IoU above 0 instead of ``tau``; in LaACE_0 each detection is its own bin.

    Args:
        detections: the detections, with raw or calibrated scores.
        selected: (D,) bool, the detections that count in LaECE, LaECE_0 and LaACE_0: those above
            the LRP-optimal threshold of their class, which comes from other images.
        tau: minimum IoU of a true positive for D-ECE and LaECE, in (0, 1].
        min_score: minimum score for D-ECE, in [0, 1].
        num_bins: number of bins, >= 1.

    Returns:
        The errors and the diagrams.
    """
    at_tau, at_zero = match(detections, min_iou=tau), match(detections, min_iou=0)
    scores, true = detections.score, (at_tau.iou > 0).astype(np.float64)
    confident = ~at_tau.ignored & (scores >= min_score)
    at_tau_rows, at_zero_rows = (selected & ~matches.ignored for matches in (at_tau, at_zero))

    def diagrams(is_counted: np.ndarray, targets: np.ndarray) -> list[Reliability]:
        rows_of_classes = rows_by_class(detections, is_counted)
        return [reliability(scores[rows], targets[rows], num_bins) for rows in rows_of_classes]

    gaps = np.abs(scores - at_zero.iou)
    errors = {
        "D-ECE": [diagram.error for diagram in diagrams(confident, true)],
        "LaECE": [diagram.error for diagram in diagrams(at_tau_rows, at_tau.iou)],
        "LaECE_0": [diagram.error for diagram in diagrams(at_zero_rows, at_zero.iou)],
        "LaACE_0": [
            float(gaps[rows].mean()) if len(rows) else math.nan
            for rows in rows_by_class(detections, at_zero_rows)
        ],
    }
    classes = [
        {name: 100 * values[label] for name, values in errors.items()}
        for label in range(detections.num_classes)
    ]
    precision = reliability(scores[confident], true[confident], num_bins)
    iou = reliability(scores[at_zero_rows], at_zero.iou[at_zero_rows], num_bins)
    means = {name: 100 * mean_of_defined(values) for name, values in errors.items()}
    overall = {"D-ECE": 100 * precision.error, "D-ECE of classes": means.pop("D-ECE"), **means}
    return CalibrationErrors(overall, classes, precision, iou)


class Calibrator(NamedTuple):
    """Piecewise-linear map from scores to the expected IoU or precision: N knots, constant outside.

    Attributes:
        scores: (N,) float64, ascending scores of the knots, N >= 1.
        values: (N,) float64, in [0, 1], not descending.
    """

    scores: np.ndarray
    values: np.ndarray

    def map(self, scores: np.ndarray) -> np.ndarray:
        """Return the calibrated scores, in [0, 1] for scores in [0, 1].

        A small share of the raw score is mixed in, so different scores stay different within a
        plateau.

        Args:
            scores: (D,) raw scores.

        Returns:
            (D,) float64.
        """
        values = np.interp(scores, self.scores, self.values)
        return (values + TIE_BREAK * scores) / (1 + TIE_BREAK)


class ClassCalibrators(NamedTuple):
    """The calibrators of K classes.

    Attributes:
        pooled: fitted to the detections of all classes.
        classes: K calibrators; None for a class with few detections, which uses ``pooled``.
    """

    pooled: Calibrator
    classes: list[Calibrator | None]


def calibration_targets(detections: Detections, target: Target) -> tuple[np.ndarray, np.ndarray]:
    """Return the calibration target of each score, and which detections count.

    Args:
        detections: the detections.
        target: "iou" for the IoU with the matched object, matched at any IoU above 0; "tp" for 1
            for true positives at IoU .5 and 0 for false positives.

    Returns:
        (D,) float64 in [0, 1], and (D,) bool, False for the detections that the rules ignore.
    """
    matches = match(detections, min_iou=0.5 if target == "tp" else 0)
    values = matches.iou if target == "iou" else (matches.iou > 0).astype(np.float64)
    return values, ~matches.ignored


def fit_calibrators(
    detections: Detections, target: Target = "iou", method: Method = "isotonic"
) -> ClassCalibrators:
    """Fit a calibrator for each class with at least :data:`MIN_DETECTIONS` detections.

    Args:
        detections: at least one that is not ignored, after NMS and top-k, on images that are not
            used to measure the result.
        target: what the scores should be; see :func:`calibration_targets`.
        method: "isotonic" for isotonic regression; "linear" for a line, cut off at 0 and 1.

    Returns:
        The calibrators.
    """
    targets, is_counted = calibration_targets(detections, target)
    scores = detections.score
    classes = []
    for rows in rows_by_class(detections, is_counted):
        enough = len(rows) >= MIN_DETECTIONS
        classes.append(_fit(scores[rows], targets[rows], method) if enough else None)
    return ClassCalibrators(_fit(scores[is_counted], targets[is_counted], method), classes)


def _fit(scores: np.ndarray, targets: np.ndarray, method: Method) -> Calibrator:
    # Imported here, because only fitting needs it, and it takes a second.
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LinearRegression

    if method == "isotonic":
        regression = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        regression.fit(scores.astype(np.float64), targets)
        return Calibrator(regression.X_thresholds_, regression.y_thresholds_)
    line = LinearRegression().fit(scores[:, None], targets)
    slope, offset = float(line.coef_[0]), float(line.intercept_)
    values = np.clip(offset + slope * np.array([0.0, 1.0]), 0, 1)
    if values[0] >= values[1]:  # the order of the scores must not change
        return Calibrator(np.zeros(1), np.full(1, targets.mean()))
    return Calibrator((values - offset) / slope, values)


def calibrate(
    scores: np.ndarray, labels: np.ndarray, calibrators: Sequence[Calibrator]
) -> np.ndarray:
    """Calibrate scores without changing their order within a class.

    Within a class, different scores stay different, even where calibrated values would round to the
    same float64, and equal ones stay equal. AP per class is therefore unchanged.

    Args:
        scores: (D,) raw scores.
        labels: (D,) int64, index of the class.
        calibrators: the calibrator of each class.

    Returns:
        (D,) float64, the calibrated scores.
    """
    calibrated = np.asarray(scores, np.float64).copy()
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    for label, rows in zip(present.tolist(), np.split(order, starts[1:]), strict=False):
        distinct, index = np.unique(calibrated[rows], return_inverse=True)
        calibrated[rows] = _separate(calibrators[label].map(distinct))[index]
    return calibrated


def _separate(values: np.ndarray) -> np.ndarray:
    """Raise values that are not above their predecessor to the next float64."""
    if (np.diff(values) > 0).all():
        return values
    separate = values.tolist()
    for i in range(1, len(separate)):
        separate[i] = max(separate[i], math.nextafter(separate[i - 1], math.inf))
    return np.array(separate)
