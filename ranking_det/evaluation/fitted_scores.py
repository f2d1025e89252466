"""Fitted scores of a model: calibrators and thresholds per class, as a ``*.scores.json``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from ranking_det.data.coco_json.fields import is_finite_number
from ranking_det.data.coco_json.reader import load_json
from ranking_det.evaluation.calibration import (
    Calibrator,
    ClassCalibrators,
    Method,
    Target,
    calibrate,
    fit_calibrators,
)
from ranking_det.evaluation.matching import Detections, match
from ranking_det.evaluation.thresholds import KINDS, Thresholds, fit_thresholds
from ranking_det.files import without_nan
from ranking_det.user_errors import UserError, listed, quantity, show

SUFFIX = ".scores.json"
"""Suffix of the file names of fitted scores."""


@dataclass(frozen=True)
class FittedScores:
    """Calibrators and thresholds of K classes.

    Attributes:
        classes: the names of the classes.
        target: what a calibrated score is: "iou", the expected IoU with an object, or "tp", the
            expected precision at IoU .5.
        method: "isotonic" or "linear".
        calibrators: the calibrators of the classes.
        thresholds: thresholds of raw scores by kind, one of
            :data:`~ranking_det.evaluation.thresholds.KINDS`.
        kind: the kind of threshold that decides what is drawn.
    """

    classes: Sequence[str]
    target: Target
    method: Method
    calibrators: ClassCalibrators
    thresholds: Mapping[str, Thresholds]
    kind: str = KINDS[0]

    def calibrate(self, classes: Sequence[str], scores: Sequence[float] | np.ndarray) -> np.ndarray:
        """Calibrate the scores of detections.

        See :func:`ranking_det.evaluation.calibration.calibrate`.

        Args:
            classes: (D,) name of the class of each detection.
            scores: (D,) raw scores.

        Returns:
            (D,) float64.
        """
        label_of = {name: label for label, name in enumerate(self.classes)}
        labels = np.array([label_of[name] for name in classes], np.int64)
        return calibrate(np.asarray(scores, np.float64), labels, self._calibrators())

    def calibrate_results(
        self, results: Iterable[Mapping[str, Any]], names: Mapping[Any, str]
    ) -> list[dict[str, Any]]:
        """Calibrate the scores of detections in COCO's result format.

        Args:
            results: the detections, after the final selection.
            names: the name of the class of each category id.

        Returns:
            Copies of the results.
        """
        rows = list(results)
        classes = [names[row["category_id"]] for row in rows]
        scores = self.calibrate(classes, [row["score"] for row in rows]).tolist()
        return [{**row, "score": score} for row, score in zip(rows, scores, strict=True)]

    def calibrated_thresholds(self, classes: Sequence[str]) -> list[float]:
        """Return the thresholds that decide what is drawn, for calibrated scores.

        Args:
            classes: names of classes.

        Returns:
            The threshold of each; infinite for a class that never reaches the precision.
        """
        raw = dict(zip(self.classes, self.thresholds[self.kind].classes, strict=True))
        maps = dict(zip(self.classes, self._calibrators(), strict=True))
        return [
            math.inf if math.isnan(raw[name]) else float(maps[name].map(np.array(raw[name])))
            for name in classes
        ]

    def _calibrators(self) -> list[Calibrator]:
        pooled = self.calibrators.pooled
        return [calibrator or pooled for calibrator in self.calibrators.classes]

    def with_classes(self, classes: Sequence[str]) -> FittedScores:
        """Extend to classes without fitted scores.

        They get the pooled calibrator and the overall thresholds.

        Args:
            classes: names that include all of :attr:`classes`.

        Returns:
            The same for these classes.
        """
        label_of = {name: label for label, name in enumerate(self.classes)}
        labels = [label_of.get(name) for name in classes]
        calibrators = self.calibrators.classes
        return replace(
            self,
            classes=classes,
            calibrators=self.calibrators._replace(
                classes=[None if label is None else calibrators[label] for label in labels]
            ),
            thresholds={
                kind: values._replace(
                    classes=[
                        values.overall if label is None else values.classes[label]
                        for label in labels
                    ]
                )
                for kind, values in self.thresholds.items()
            },
        )

    def check_classes(self, classes: Sequence[str], where: str) -> None:
        """Check that the scores were fitted for the classes of a model.

        Args:
            classes: the names of the model's classes, in any order.
            where: the file or checkpoint of the fitted scores, for the message.

        Raises:
            UserError: the classes differ.
        """
        missing = [name for name in classes if name not in set(self.classes)]
        extra = [name for name in self.classes if name not in set(classes)]
        if missing or extra:
            texts = [f"without {listed(missing)}"] * bool(missing)
            texts += [f"with {listed(extra)}"] * bool(extra)
            raise UserError(
                f"{where}: expected scores fitted for the "
                f"{quantity(len(classes), 'class of the model', 'classes of the model')}, got "
                f"{quantity(len(self.classes), 'class', 'classes')} {' and '.join(texts)}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file, which :func:`parse_fitted_scores` reads."""
        entries = {
            name: {
                "calibrator": calibrator and _knots(calibrator),
                "thresholds": {
                    kind: values.classes[label] for kind, values in self.thresholds.items()
                },
            }
            for label, (name, calibrator) in enumerate(
                zip(self.classes, self.calibrators.classes, strict=True)
            )
        }
        content: dict[str, Any] = {
            "target": self.target,
            "method": self.method,
            "drawn": self.kind,
            "calibrator": _knots(self.calibrators.pooled),
            "thresholds": {kind: values.overall for kind, values in self.thresholds.items()},
            "classes": entries,
        }
        return without_nan(content)


def fit_scores(
    detections: Detections,
    names: Sequence[str],
    *,
    target: Target = "iou",
    method: Method = "isotonic",
    precision: float,
    kind: str = KINDS[0],
) -> tuple[FittedScores, list[str]]:
    """Fit calibrators and thresholds.

    Args:
        detections: the detections of the images to fit to.
        names: names of the K classes.
        target: what a calibrated score should be; see
            :func:`~ranking_det.evaluation.calibration.calibration_targets`.
        method: "isotonic" or "linear".
        precision: the precision that the thresholds of the kind "precision" reach, in (0, 1].
        kind: the kind of threshold that decides what is drawn.

    Returns:
        The fitted scores, and the names of the classes that take the overall thresholds.

    Raises:
        UserError: no detection matches an object, so that there is no threshold.
    """
    thresholds, unmatched_classes = fit_thresholds(detections, match(detections), precision)
    if math.isnan(thresholds["lrp"].overall):
        raise UserError(
            "expected detections that match an object at IoU .5 in the images to fit to, got none"
        )
    calibrators = fit_calibrators(detections, target, method)
    fitted = FittedScores(names, target, method, calibrators, thresholds, kind)
    return fitted, [names[label] for label in unmatched_classes]


def read_fitted_scores(path: str | Path) -> FittedScores:
    """Read a ``*.scores.json``.

    Args:
        path: the file.

    Returns:
        The fitted scores.

    Raises:
        UserError: the file is missing or malformed.
    """
    return parse_fitted_scores(load_json(str(path), "file of fitted scores"), str(path))


def parse_fitted_scores(content: Any, where: str) -> FittedScores:
    """Check and convert the content of a ``*.scores.json``.

    Args:
        content: the content, from a file or a checkpoint.
        where: the file or the checkpoint, for messages.

    Returns:
        The fitted scores.

    Raises:
        UserError: an entry is missing or malformed.
    """
    root = _Entry(content, where, "")
    classes = root.child("classes")
    if not classes.content:
        raise classes.fault("at least one class", classes.content)
    pooled = root.child("calibrator").calibrator()
    parts = {name: classes.child(name) for name in classes.content}
    calibrators = [
        None if part.value("calibrator") is None else part.child("calibrator").calibrator()
        for part in parts.values()
    ]
    class_thresholds = [part.child("thresholds") for part in parts.values()]
    overall = root.child("thresholds")
    thresholds = {
        kind: Thresholds(
            overall.threshold(kind), [part.threshold(kind) for part in class_thresholds]
        )
        for kind in KINDS
    }
    return FittedScores(
        list(parts),
        root.choice("target", get_args(Target)),
        root.choice("method", get_args(Method)),
        ClassCalibrators(pooled, calibrators),
        thresholds,
        root.choice("drawn", KINDS),
    )


def _knots(calibrator: Calibrator) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in calibrator._asdict().items()}


class _Entry:
    """An object in the file, whose values are checked when they are read."""

    def __init__(self, content: Any, where: str, key: str) -> None:
        self.where, self.key = where, key
        if not isinstance(content, dict):
            raise self.fault("an object", content)
        self.content = content

    def fault(self, expected: str, value: Any) -> UserError:
        key = f" {self.key}:" * bool(self.key)
        return UserError(
            f"{self.where}:{key} expected {expected}, got {show(value)} (python -m "
            "ranking_det.analysis fit writes such files)"
        )

    def value(self, name: str) -> Any:
        if name not in self.content:
            raise self.fault(f"an entry {name!r}", listed(list(map(repr, self.content))))
        return self.content[name]

    def child(self, name: str) -> _Entry:
        return _Entry(self.value(name), self.where, f"{self.key}.{name}".lstrip("."))

    def choice(self, name: str, choices: Sequence[str]) -> Any:
        if self.value(name) not in choices:
            raise self.fault(f"{' or '.join(choices)} as {name!r}", self.content[name])
        return self.content[name]

    def threshold(self, name: str) -> float:
        value = self.value(name)
        if value is None:
            return math.nan
        if not (is_finite_number(value) and 0 <= value <= 1):
            raise self.fault(f"a number from 0 to 1 or null as {name!r}", value)
        return float(value)

    def calibrator(self) -> Calibrator:
        """Return the object as a calibrator."""
        knots = []
        for name in Calibrator._fields:
            value = self.value(name)
            if not (isinstance(value, list) and value and all(map(is_finite_number, value))):
                raise self.fault(f"a list of finite numbers as {name!r}", value)
            numbers = np.array(value, np.float64)
            if (np.diff(numbers) < 0).any():
                raise self.fault(f"ascending numbers as {name!r}", value)
            knots.append(numbers)
        scores, values = knots
        if len(scores) != len(values):
            raise self.fault("as many scores as values", len(values))
        if values[0] < 0 or values[-1] > 1:
            raise self.fault("values from 0 to 1", self.content["values"])
        return Calibrator(scores, values)
