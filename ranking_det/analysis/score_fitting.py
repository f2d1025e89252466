"""Calibrated scores and score thresholds from ground truth and a result file."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from itertools import islice
from operator import length_hint
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ranking_det.analysis.result_files import ResultFiles, read_result_files, read_truth, show_stage
from ranking_det.engine.checkpoint import (
    FITTED,
    Checkpoint,
    add_entry,
    check_extras,
    read_checkpoint,
)
from ranking_det.engine.command import Command
from ranking_det.engine.part_errors import one_line_errors
from ranking_det.engine.plan import make_plan
from ranking_det.engine.threshold_speed import time_thresholds
from ranking_det.evaluation.calibration import CalibrationErrors, calibration_errors
from ranking_det.evaluation.detection_analysis import pooled_metrics
from ranking_det.evaluation.fitted_scores import FittedScores, fit_scores
from ranking_det.evaluation.metrics import DetectionEvaluation
from ranking_det.evaluation.score_statistics import image_halves
from ranking_det.evaluation.thresholds import ThresholdSweep
from ranking_det.files import without_nan, write_json
from ranking_det.modeling.threshold_watch import THRESHOLD_KEYS
from ranking_det.path_checks import check_file, check_outputs
from ranking_det.user_errors import UserError, listed, quantity

SWEEP = (
    *(0.0, 1e-4, 1e-3, 0.003, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.045, 0.05, 0.07),
    *(0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
)
"""The thresholds of a sweep, by default; dense where scores after Rank & Sort Loss can lie."""

TITLES = {"lrp": "smallest LRP error", "f1": "highest F1", "precision": "precision >= {:g}"}
"""What each kind of threshold is for."""


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
    fitted_files, measured_files, origins, lines = _read_parts(args)
    evaluation = fitted_files.evaluate()
    names = _class_names(evaluation.names, checkpoint)
    options = {"target": args.target, "method": args.method, "kind": args.drawn}
    with show_stage("fitting"):
        fitted, unmatched_classes = fit_scores(
            evaluation.detections, evaluation.names, precision=args.precision, **options
        )
        largest = ThresholdSweep(evaluation.detections).largest_threshold()
    before, after = _measure(fitted, measured_files.evaluate())
    content = without_nan(
        {
            **fitted.with_classes(names).to_json(),
            "precision": args.precision,
            "largest_threshold": largest,
            "without_true_positive": unmatched_classes,
            "fitted_on": origins[0],
            "measured_on": origins[1],
            "measured": {"before": before, "after": after},
        }
    )
    if checkpoint is not None:
        add_entry(checkpoint, FITTED, content)
    write_json(Path(args.output), content)
    lines = [*lines, f"Fitted on {origins[0]}", f"Measured on {origins[1]}"]
    if unmatched_classes:
        text = "Classes without a true positive, which take the thresholds of all classes together"
        lines.append(f"{text}: {listed(unmatched_classes)}")
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


def _read_parts(
    args: argparse.Namespace,
) -> tuple[ResultFiles, ResultFiles, list[str], list[str]]:
    """Return what to fit to and what to measure on, a description of the images of each, and lines.

    Raises:
        UserError: a file cannot be used, there is one image only, or the classes differ.
    """
    files = read_truth(args.ground_truth, args.iou_type).read(args.results)
    _check_scores(files, args.results)
    num_images = len(files.ground_truth["images"])
    if args.measure_results is not None:
        measured = read_truth(args.measure_ground_truth, args.iou_type).read(args.measure_results)
        _check_scores(measured, args.measure_results)
        _check_same_classes(files, measured, args.measure_ground_truth)
        num_measured = len(measured.ground_truth["images"])
        warnings = []
        if os.path.samefile(args.ground_truth, args.measure_ground_truth):
            warnings = [
                f"Warning: {args.measure_ground_truth} is also fitted to, so the measured errors "
                "are too small"
            ]
        origins = [
            f"{quantity(num_images, 'image', 'images')} of {args.ground_truth}",
            f"{quantity(num_measured, 'image', 'images')} of {args.measure_ground_truth}",
        ]
        return files, measured, origins, [*files.lines, *measured.lines, *warnings]
    if num_images < 2:
        raise UserError(
            f"--ground-truth: expected at least 2 images, one to fit to and one to measure on, got "
            f"{num_images}; give more images, or others with --measure-ground-truth and "
            "--measure-results"
        )
    half = image_halves(num_images, args.seed)
    counts = [quantity(int(part.sum()), "image", "images") for part in (~half, half)]
    origins = [
        f"{counts[0]}, a random half of {args.ground_truth} (seed {args.seed})",
        f"{counts[1]}, the other half of {args.ground_truth}",
    ]
    return files.part(~half), files.part(half), origins, files.lines


def _check_scores(files: ResultFiles, path: str) -> None:
    outside = [row["score"] for row in files.results if not 0 <= row["score"] <= 1]
    if outside:
        raise UserError(
            f"{path}: expected scores from 0 to 1, got {outside[0]:g} (map logits to probabilities "
            "first)"
        )


def _check_same_classes(files: ResultFiles, measured: ResultFiles, path: str) -> None:
    classes, measured_classes = (
        {category["name"] for category in each.ground_truth["categories"]}
        for each in (files, measured)
    )
    if classes != measured_classes:
        raise UserError(
            f"{path}: expected the classes of the ground truth to fit to, got others: "
            f"{listed(sorted(classes ^ measured_classes))}"
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
        _measured_errors(calibration_errors(each, above), names, pooled_metrics(each))
        for each in (detections, calibrated)
    )
    return before, after


def _measured_errors(
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
    key, rcnn_key = THRESHOLD_KEYS
    lines = [f"One threshold for all classes, as an override (R-CNNs: {rcnn_key}):"]
    for title, value in overall.items():
        title = title.format(precision)
        override = "not reached" if math.isnan(value) else f"{key}={round_below(value):g}"
        lines.append(f"  {title:21} {override}")
    return [*lines, "The thresholds of each class are in the file; --fitted uses them."]


def round_below(threshold: float) -> float:
    """Round a threshold down to four digits, so that a score equal to it is above the result.

    Models drop the detections with at most the score of their threshold.

    Args:
        threshold: in [0, 1].

    >>> round_below(0.25), round_below(0.123456)
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
    thresholds = sorted(set(args.thresholds))
    outside = [f"{threshold:g}" for threshold in thresholds if not 0 <= threshold <= 1]
    if outside:
        raise UserError(f"--thresholds: expected numbers from 0 to 1, got {listed(outside)}")
    if args.num_images < 1:
        raise UserError(f"--num-images: expected at least 1, got {args.num_images}")
    if overrides and args.config_file is None:
        raise UserError(f"{' '.join(overrides)}: overrides need --config-file FILE")
    files = read_result_files(args)
    _check_scores(files, args.results)
    plan = None
    if args.config_file is not None:
        command = Command(
            config_file=args.config_file,
            overrides=overrides,
            trust_config=args.trust_config,
            eval_only=True,
        )
        plan = make_plan(command)
    sweep = ThresholdSweep(files.evaluate().detections)
    with show_stage("computing metrics at each threshold"):
        rows = sweep.rows(thresholds, len(files.ground_truth["images"]))
    lines = list(files.lines)
    if plan is not None:
        with one_line_errors(plan.model, []):
            plan.prepare_inference()
            loader = plan.config.test_loader(plan.config.test_sets()[0])
            total = min(args.num_images, length_hint(loader, args.num_images))
            times, num_images = time_thresholds(
                plan.config.augment(plan.model),
                tqdm(islice(loader, total), "timing", total, leave=False),
                thresholds,
                args.num_images,
            )
        rows = [row | {"ms": time} for row, time in zip(rows, times, strict=True)]
        lines.append(
            f"ms: mean time per image on {plan.config.train.device}, over "
            f"{quantity(num_images, 'image', 'images')}"
        )
    content = {"thresholds": rows, "largest_threshold": sweep.largest_threshold()}
    write_json(Path(args.output), without_nan(content))
    lines.append(" ".join(f"{name:>10}" for name in rows[0]))
    lines += [" ".join(f"{value:10.4g}" for value in row.values()) for row in rows]
    return [*lines, f"Wrote {args.output}"]
