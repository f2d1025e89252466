"""Compute oLRP and all other detection metrics of a result file, and write them as JSON."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ranking_det.analysis.result_files import read_result_files, show_stage
from ranking_det.evaluation.correlation import Correlation
from ranking_det.evaluation.detection_analysis import analyze_detections
from ranking_det.evaluation.lrp import summarize
from ranking_det.evaluation.metrics import overall, per_class
from ranking_det.files import without_nan, write_json
from ranking_det.user_errors import UserError


def write_lrp(args: argparse.Namespace) -> list[str]:
    """Compute oLRP and write it as JSON, with the error and the threshold of each class.

    Args:
        args: the arguments of ``python -m ranking_det.analysis olrp``.

    Returns:
        The lines to print.

    Raises:
        UserError: a file cannot be read or written, or its content is faulty.
    """
    files = read_result_files(args)
    _, detections, names, _ = files.evaluate()
    metrics = summarize(detections, names)
    errors = overall(metrics)
    columns = {name: per_class(metrics, names, name) for name in ("oLRP", "threshold")}
    of_classes = {
        label: {name: values[label] for name, values in columns.items()} for label in names
    }
    write_json(Path(args.output), without_nan({**errors, "classes": of_classes}))
    lines = [f"{name:7} {value:7.3f}" for name, value in errors.items()]
    return [*files.lines, *lines, f"Wrote {args.output}"]


def write_detection_numbers(args: argparse.Namespace) -> list[str]:
    """Compute all metrics of detections and write them as JSON.

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
    files = read_result_files(args)
    evaluation = files.evaluate()
    with show_stage("computing metrics"):
        numbers = analyze_detections(
            evaluation,
            files.ground_truth,
            files.results,
            args.iou_type,
            score_threshold=threshold,
        )
    content = {"rules": files.rules, "iou_type": args.iou_type, **numbers}
    write_json(Path(args.output), without_nan(content))
    return [*files.lines, *_table(numbers), f"Wrote {args.output}"]


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
