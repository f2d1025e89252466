"""How well a detector ranks its detections: numbers from ground truth and a result file."""

from __future__ import annotations

import argparse
from pathlib import Path

from ranking_det.data.coco_json.reader import is_lvis
from ranking_det.data.coco_json.results import read_results
from ranking_det.evaluation.command_line import check_outputs
from ranking_det.evaluation.ground_truth import describe, read_ground_truth
from ranking_det.evaluation.libraries import check_library
from ranking_det.evaluation.metrics import Rules, detection_metrics, overall, per_class, without_nan
from ranking_det.files import write_json


def write_lrp(args: argparse.Namespace) -> list[str]:
    """Compute oLRP and write it as JSON, with the error and the threshold of each class.

    Args:
        args: the arguments of ``python -m ranking_det.analysis olrp``.

    Returns:
        The lines to print.

    Raises:
        UserError: a file cannot be read or written, or its content is faulty.
    """
    inputs = {"the ground truth": args.ground_truth, "the results": args.results}
    check_outputs(inputs, {"--output": args.output})
    ground_truth, notes = read_ground_truth(args.ground_truth, None, args.iou_type)
    rules: Rules = "lvis" if is_lvis(ground_truth["images"]) else "coco"
    check_library("faster-coco-eval", lvis=rules == "lvis")
    results = read_results(args.results, ground_truth, args.iou_type)
    metrics = detection_metrics(ground_truth, results, args.iou_type, rules=rules)
    errors = {name: value for name, value in overall(metrics).items() if name.startswith("oLRP")}
    classes = [category["name"] for category in ground_truth["categories"]]
    columns = {name: per_class(metrics, classes, name) for name in ("oLRP", "threshold")}
    of_classes = {
        label: {name: values[label] for name, values in columns.items()} for label in classes
    }
    write_json(Path(args.output), without_nan({**errors, "classes": of_classes}))
    lines = [f"{args.ground_truth}: {describe(ground_truth)}", *notes, f"{len(results):,} results"]
    lines += [f"{name:7} {value:7.3f}" for name, value in errors.items()]
    return [*lines, f"Wrote {args.output}"]
