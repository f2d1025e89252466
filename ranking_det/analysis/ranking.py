"""How well a detector ranks its detections: numbers from ground truth and a result file."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ranking_det.data.coco_json.reader import is_lvis
from ranking_det.data.coco_json.results import read_results
from ranking_det.evaluation.command_line import check_outputs
from ranking_det.evaluation.correlation import Correlation
from ranking_det.evaluation.detection_analysis import analyze_detections
from ranking_det.evaluation.ground_truth import describe, read_ground_truth
from ranking_det.evaluation.libraries import check_library
from ranking_det.evaluation.metrics import (
    Rules,
    detection_metrics,
    evaluate_detections,
    overall,
    per_class,
    without_nan,
)
from ranking_det.files import write_json
from ranking_det.user_errors import UserError, counted


def write_lrp(args: argparse.Namespace) -> list[str]:
    """Compute oLRP and write it as JSON, with the error and the threshold of each class.

    Args:
        args: the arguments of ``python -m ranking_det.analysis olrp``.

    Returns:
        The lines to print.

    Raises:
        UserError: a file cannot be read or written, or its content is faulty.
    """
    ground_truth, rules, results, lines = _read(args)
    metrics = detection_metrics(ground_truth, results, args.iou_type, rules=rules)
    errors = {name: value for name, value in overall(metrics).items() if name.startswith("oLRP")}
    classes = [category["name"] for category in ground_truth["categories"]]
    columns = {name: per_class(metrics, classes, name) for name in ("oLRP", "threshold")}
    of_classes = {
        label: {name: values[label] for name, values in columns.items()} for label in classes
    }
    write_json(Path(args.output), without_nan({**errors, "classes": of_classes}))
    lines += [f"{name:7} {value:7.3f}" for name, value in errors.items()]
    return [*lines, f"Wrote {args.output}"]


def write_detection_numbers(args: argparse.Namespace) -> list[str]:
    """Compute all numbers about detections and write them as JSON.

    Args:
        args: the arguments of ``python -m ranking_det.analysis detections``.

    Returns:
        The lines to print.

    Raises:
        UserError: a file cannot be read or written, or its content is faulty.
    """
    threshold = args.score_threshold
    if threshold is not None and not math.isfinite(threshold):
        raise UserError(f"--score-threshold: expected a finite number, got {threshold}")
    ground_truth, rules, results, lines = _read(args)
    evaluation = evaluate_detections(ground_truth, results, args.iou_type, rules=rules)
    numbers = analyze_detections(
        evaluation, ground_truth, results, args.iou_type, score_threshold=threshold
    )
    content = {"rules": rules, "iou_type": args.iou_type, **numbers}
    write_json(Path(args.output), without_nan(content))
    return [*lines, *_table(numbers), f"Wrote {args.output}"]


def _read(args: argparse.Namespace) -> tuple[dict[str, Any], Rules, list[Any], list[str]]:
    """Return the ground truth, its rules, the results, and the lines that describe them."""
    inputs = {"the ground truth": args.ground_truth, "the results": args.results}
    check_outputs(inputs, {"--output": args.output})
    return read_files(args.ground_truth, args.results, args.iou_type)


def read_files(
    ground_truth_path: str, results_path: str, iou_type: str
) -> tuple[dict[str, Any], Rules, list[Any], list[str]]:
    """Read and check an annotation file and a result file.

    Args:
        ground_truth_path: the annotation file.
        results_path: the result file.
        iou_type: "bbox" or "segm".

    Returns:
        The ground truth, its rules, the results, and the lines that describe them.

    Raises:
        UserError: a file cannot be read, or its content is faulty.
    """
    ground_truth, rules, notes = read_truth(ground_truth_path, iou_type)
    results = read_results(results_path, ground_truth, iou_type)
    description = f"{ground_truth_path}: {describe(ground_truth)}"
    count = counted(len(results), "result", "results")
    return ground_truth, rules, results, [description, *notes, count]


def read_truth(path: str, iou_type: str) -> tuple[dict[str, Any], Rules, tuple[str, ...]]:
    """Read and check an annotation file.

    Args:
        path: the file.
        iou_type: "bbox" or "segm".

    Returns:
        The ground truth, its rules, and a line for each kind of annotation problem.

    Raises:
        UserError: the file cannot be read, or its content is faulty.
    """
    ground_truth, notes = read_ground_truth(path, None, iou_type)
    rules: Rules = "lvis" if is_lvis(ground_truth["images"]) else "coco"
    check_library("faster-coco-eval", lvis=rules == "lvis")
    return ground_truth, rules, notes


def _table(numbers: Mapping[str, Any]) -> list[str]:
    """Return the overall numbers as lines."""
    overall_numbers = numbers["overall"]
    rows = {name: value for name, value in overall_numbers.items() if isinstance(value, float)}
    rows |= {name: overall_numbers["correlation"][name] for name in Correlation._fields[1:]}
    rows["score threshold"] = numbers["score_threshold"]
    rows |= {name: overall_numbers["at_threshold"][name] for name in ("precision", "recall", "f1")}
    errors = overall_numbers["errors"]
    rows |= {f"AP50 lost: {name}": errors[name]["AP"] for name in errors if name != "AP50"}
    width = max(map(len, rows))
    return [f"{name:{width}} {value:8.3f}" for name, value in rows.items()]
