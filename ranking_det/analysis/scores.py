"""Calibrated scores and score thresholds from ground truth and a result file."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ranking_det.analysis.ranking import read_files
from ranking_det.engine.checkpoint import (
    FITTED,
    Checkpoint,
    add_entry,
    check_extras,
    read_checkpoint,
)
from ranking_det.engine.command import Command
from ranking_det.engine.plan import make_missing_sets, make_plan
from ranking_det.engine.run_checks import check_file
from ranking_det.engine.speed import time_thresholds
from ranking_det.evaluation.calibration import CalibrationErrors, calibration_errors
from ranking_det.evaluation.command_line import check_outputs
from ranking_det.evaluation.detection_analysis import pooled_metrics
from ranking_det.evaluation.fitted_scores import FittedScores, fit_scores
from ranking_det.evaluation.metrics import (
    DetectionEvaluation,
    Rules,
    evaluate_detections,
    without_nan,
)
from ranking_det.evaluation.thresholds import ThresholdSweep
from ranking_det.files import write_json
from ranking_det.user_errors import UserError, counted, listed

SWEEP = (0.0, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The thresholds of a sweep, by default."""

KEYS = ("model.inference.score_thresh", "model.roi_heads.box_predictor.test_score_thresh")
"""The config keys of the score threshold of dense detectors and of R-CNNs."""

TITLES = {"lrp": "smallest LRP error", "f1": "highest F1", "precision": "precision >= {:g}"}
"""What each kind of threshold is for."""

Results = list[dict[str, Any]]


class _Files(NamedTuple):
    """The content of an annotation file and a result file, or a part of it."""

    ground_truth: dict[str, Any]
    results: Results
    rules: Rules
    lines: list[str]  # that describe the files
    origin: str  # that describes the images

    @property
    def num_images(self) -> int:
        return len(self.ground_truth["images"])

    @property
    def class_names(self) -> set[str]:
        return {category["name"] for category in self.ground_truth["categories"]}

    def part(self, images: Sequence[Any], what: str) -> _Files:
        """Return what belongs to some of the images."""
        ids = {image["id"] for image in images}
        annotations, results = (
            [entry for entry in entries if entry["image_id"] in ids]
            for entries in (self.ground_truth["annotations"], self.results)
        )
        ground_truth = {**self.ground_truth, "images": images, "annotations": annotations}
        origin = f"{counted(len(images), 'image', 'images')}, {what}"
        return self._replace(ground_truth=ground_truth, results=results, origin=origin)

    def evaluate(self, iou_type: str) -> DetectionEvaluation:
        """Find the objects that each detection overlaps."""
        return evaluate_detections(self.ground_truth, self.results, iou_type, rules=self.rules)


def _read(ground_truth_path: str, results_path: str, iou_type: str) -> _Files:
    ground_truth, rules, results, lines = read_files(ground_truth_path, results_path, iou_type)
    outside = [row["score"] for row in results if not 0 <= row["score"] <= 1]
    if outside:
        raise UserError(
            f"{results_path}: expected scores from 0 to 1, got {outside[0]:g} (map logits to "
            "probabilities first)"
        )
    count = counted(len(ground_truth["images"]), "image", "images")
    return _Files(ground_truth, results, rules, lines, f"{count} of {ground_truth_path}")


def write_fit(args: argparse.Namespace) -> list[str]:
    """Fit calibrators and thresholds, measure them on other images, and write both.

    Args:
        args: the arguments of ``python -m ranking_det.analysis fit``.

    Returns:
        The lines to print.

    Raises:
        UserError: a file cannot be read or written, its content is faulty, or there is nothing to
            fit to.
    """
    _check_fit(args)
    checkpoint = None if args.checkpoint is None else _read_checkpoint(args.checkpoint)
    files = _read(args.ground_truth, args.results, args.iou_type)
    if args.measure_results is None:
        part, measured_part = _halves(files, args.ground_truth, args.seed)
        lines = files.lines
    else:
        part = files
        measured_part = _read(args.measure_ground_truth, args.measure_results, args.iou_type)
        _check_same_classes(files, measured_part, args.measure_ground_truth)
        lines = [*files.lines, *measured_part.lines]
    evaluation = part.evaluate(args.iou_type)
    names = _class_names(evaluation.names, checkpoint)
    options = {"target": args.target, "method": args.method, "kind": args.drawn}
    fitted, without = fit_scores(
        evaluation.detections, evaluation.names, precision=args.precision, **options
    )
    largest = ThresholdSweep(evaluation.detections).largest_threshold()
    before, after = _measure(fitted, measured_part.evaluate(args.iou_type))
    content = without_nan(
        {
            **fitted.with_classes(names).to_json(),
            "precision": args.precision,
            "largest_threshold": largest,
            "without_true_positive": without,
            "fitted_on": part.origin,
            "measured_on": measured_part.origin,
            "measured": {"before": before, "after": after},
        }
    )
    if checkpoint is not None:
        add_entry(checkpoint, FITTED, content)
    write_json(Path(args.output), content)
    lines = [*lines, f"Fitted on {part.origin}", f"Measured on {measured_part.origin}"]
    if without:
        text = "Classes without a true positive, which take the thresholds of all classes together"
        lines.append(f"{text}: {listed(without)}")
    lines += _threshold_lines(fitted, largest, args.precision)
    lines.append("Errors of the scores and pooled AP in percent, before -> after calibration:")
    rows = {name: (value, after["overall"][name]) for name, value in before["overall"].items()}
    lines += [f"  {name:17} {_cell(one)} -> {_cell(two)}" for name, (one, two) in rows.items()]
    return [*lines, f"Wrote {args.output}{f' and {args.checkpoint}' if args.checkpoint else ''}"]


def _check_fit(args: argparse.Namespace) -> None:
    """Raise UserError if a value is out of range, a flag is missing or a path cannot be used."""
    measured = {
        "--measure-ground-truth": args.measure_ground_truth,
        "--measure-results": args.measure_results,
    }
    missing = [flag for flag, path in measured.items() if path is None]
    if len(missing) == 1:
        raise UserError(f"{missing[0]}: expected a file, as for the other --measure flag, got none")
    if not 0 < args.precision <= 1:
        raise UserError(f"--precision: expected a number above 0, at most 1, got {args.precision}")
    if args.seed < 0:
        raise UserError(f"--seed: expected at least 0, got {args.seed}")
    inputs = {"the ground truth": args.ground_truth, "the results": args.results}
    inputs |= {flag: path for flag, path in measured.items() if path is not None}
    check_outputs(inputs, {"--checkpoint": args.checkpoint, "--output": args.output})


def _read_checkpoint(path: str) -> Checkpoint:
    if not path.endswith(".pth") or "://" in path:
        raise UserError(f"--checkpoint: expected a .pth file, got {path!r}")
    check_file(path, "--checkpoint")
    checkpoint = read_checkpoint(path)
    check_extras(checkpoint)
    return checkpoint


def _halves(files: _Files, path: str, seed: int) -> tuple[_Files, _Files]:
    """Split the images at random into those to fit to and those to measure on."""
    images = files.ground_truth["images"]
    if len(images) < 2:
        raise UserError(
            f"--ground-truth: expected at least 2 images, one to fit to and one to measure on, got "
            f"{len(images)}; give more images, or others with --measure-ground-truth and "
            "--measure-results"
        )
    order = np.random.default_rng(seed).permutation(len(images))
    middle = (len(images) + 1) // 2
    what = f"a half of {path} (seed {seed})"
    first, second = (
        files.part([images[i] for i in np.sort(half)], what)
        for half in (order[:middle], order[middle:])
    )
    return first, second


def _check_same_classes(files: _Files, measured: _Files, path: str) -> None:
    differing = sorted(files.class_names ^ measured.class_names)
    if differing:
        raise UserError(
            f"{path}: expected the classes of the ground truth to fit to, got others: "
            f"{listed(differing)}"
        )


def _class_names(names: list[str], checkpoint: Checkpoint | None) -> list[str]:
    """Return the classes of the checkpoint, or of the ground truth without one."""
    known = None if checkpoint is None else checkpoint.extras.get("class_names")
    if known is None:
        return names
    unknown = [name for name in names if name not in known]
    if unknown:
        assert checkpoint is not None
        raise UserError(
            f"{checkpoint.path!r}: expected the classes of the ground truth, got a model without "
            f"{listed(unknown)}"
        )
    return list(known)


def _measure(
    fitted: FittedScores, evaluation: DetectionEvaluation
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return calibration errors and pooled AP of the raw and of the calibrated scores."""
    detections, names = evaluation.detections, evaluation.names
    classes = [names[label] for label in detections.label]
    lowest = dict(zip(fitted.classes, fitted.thresholds["lrp"].classes, strict=True))
    above = detections.score >= np.array([lowest[name] for name in classes])
    calibrated = detections._replace(score=fitted.calibrate(classes, detections.score))
    before, after = (
        _content(calibration_errors(each, above), names, pooled_metrics(each))
        for each in (detections, calibrated)
    )
    return before, after


def _content(
    errors: CalibrationErrors, names: Sequence[str], pooled: dict[str, float]
) -> dict[str, Any]:
    """Return the errors and the arrays of the reliability diagrams for JSON."""
    return {
        "overall": {**errors.overall, "pooledAP": pooled["pooledAP"]},
        "classes": dict(zip(names, errors.classes, strict=True)),
        "reliability": errors.diagrams(),
    }


def _threshold_lines(fitted: FittedScores, largest: float, precision: float) -> list[str]:
    """Return a line for each kind of threshold, with the override that applies it."""
    overall = {TITLES[kind]: values.overall for kind, values in fitted.thresholds.items()}
    overall["largest, AP within .1"] = largest
    lines = [f"One threshold for all classes, as an override (R-CNNs: {KEYS[1]}):"]
    for title, value in overall.items():
        title = title.format(precision)
        override = "not reached" if math.isnan(value) else f"{KEYS[0]}={below(value):g}"
        lines.append(f"  {title:21} {override}")
    return [*lines, "The thresholds of each class are in the file; --fitted uses them."]


def below(threshold: float) -> float:
    """Round a threshold down to four digits, so that a score equal to it is above the result.

    Models drop the detections with at most the score of their threshold.

    Args:
        threshold: in [0, 1].

    >>> below(0.25), below(0.123456)
    (0.2499, 0.1234)
    """
    if not threshold > 0:
        return 0.0
    scale = 10.0 ** (3 - math.floor(math.log10(threshold)))
    return (math.ceil(threshold * scale) - 1) / scale


def _cell(value: float) -> str:
    return f"{'-' if math.isnan(value) else f'{value:.2f}':>6}"


def write_sweep(args: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    """Compute AP, F1, LRP and detections per image at each threshold, and write them as JSON.

    Args:
        args: the arguments of ``python -m ranking_det.analysis sweep``.
        overrides: overrides of keys of the config.

    Returns:
        The lines to print.

    Raises:
        UserError: a file cannot be read or written, its content is faulty, or the model has no
            score threshold.
    """
    inputs = {"the ground truth": args.ground_truth, "the results": args.results}
    check_outputs(inputs, {"--output": args.output})
    thresholds = sorted(set(args.thresholds))
    outside = [f"{threshold:g}" for threshold in thresholds if not 0 <= threshold <= 1]
    if outside:
        raise UserError(f"--thresholds: expected numbers from 0 to 1, got {listed(outside)}")
    if args.num_images < 1:
        raise UserError(f"--num-images: expected at least 1, got {args.num_images}")
    if overrides and args.config_file is None:
        raise UserError(f"{' '.join(overrides)}: overrides need --config-file FILE")
    plan = None
    if args.config_file is not None:
        plan = make_plan(Command(config_file=args.config_file, overrides=overrides, eval_only=True))
    files = _read(args.ground_truth, args.results, args.iou_type)
    sweep = ThresholdSweep(files.evaluate(args.iou_type).detections)
    rows = sweep.rows(thresholds, files.num_images)
    lines = list(files.lines)
    if plan is not None:
        make_missing_sets(plan.config.names("test"))
        plan.load_weights()
        loader = plan.config.test_loader(plan.config.test_sets()[0])
        times, num_images = time_thresholds(
            plan.config.augment(plan.model), loader, thresholds, args.num_images
        )
        rows = [row | {"ms": time} for row, time in zip(rows, times, strict=True)]
        lines.append(f"ms: time of an image on {plan.config.train.device}, mean of {num_images}")
    content = {"thresholds": rows, "largest_threshold": sweep.largest_threshold()}
    write_json(Path(args.output), without_nan(content))
    lines.append(" ".join(f"{name:>10}" for name in rows[0]))
    lines += [" ".join(f"{value:10.4g}" for value in row.values()) for row in rows]
    return [*lines, f"Wrote {args.output}"]
