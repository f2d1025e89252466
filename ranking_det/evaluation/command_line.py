"""The command line of ``python -m ranking_det.evaluation``."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ranking_det.config import ConfigError
from ranking_det.evaluation.files import (
    describe,
    read_ground_truth,
    read_results,
)
from ranking_det.evaluation.libraries import check_library
from ranking_det.evaluation.metrics import FIELDS, MAX_DETS, average_precision
from ranking_det.files import write_json

PROGRAM = "python -m ranking_det.evaluation"


def build_parser() -> argparse.ArgumentParser:
    """The parser: a command for the rules of each data set."""
    parser = argparse.ArgumentParser(PROGRAM, description="AP of a file in COCO's result format.")
    commands = parser.add_subparsers(dest="rules", required=True)
    for rules, limit in MAX_DETS.items():
        kind, of = ("federated ", "all classes") if rules == "lvis" else ("", "each class")
        text = f"AP by {rules.upper()}'s {kind}rules"
        command = commands.add_parser(rules, help=text, description=text)
        command.add_argument("--ground-truth", required=True, metavar="FILE", help="annotations")
        command.add_argument("--results", required=True, metavar="FILE", help="detections")
        command.add_argument("--iou-type", required=True, choices=list(FIELDS))
        command.add_argument("--output", metavar="FILE", help="gets the metrics as JSON")
        command.add_argument(
            "--max-dets",
            type=int,
            default=limit,
            metavar="N",
            help=f"detections of {of} in an image that count (default {limit})",
        )
        command.set_defaults(library="faster-coco-eval")
        if rules == "coco":
            command.add_argument("--library", choices=["faster-coco-eval", "pycocotools"])
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, and return the exit status; what the user got wrong is one line on stderr."""
    args = build_parser().parse_args(argv)
    try:
        text, metrics = _evaluate(args)
        if args.output:
            write_json(Path(args.output), metrics)
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"{PROGRAM}: error: {error}\n")
        return 2
    sys.stdout.write(text)
    return 0


def _evaluate(args: argparse.Namespace) -> tuple[str, dict[str, float | None]]:
    """What to print, and the metrics of all classes; None for NaN, which JSON has not."""
    check_library(args.library, lvis=args.rules == "lvis")
    if args.max_dets < 1:
        raise ConfigError(f"--max-dets must be at least 1, got {args.max_dets}")
    if args.output:
        _check_output(Path(args.output), {args.ground_truth, args.results})
    ground_truth = read_ground_truth(args.ground_truth, args.rules, args.iou_type)
    results = read_results(args.results, ground_truth, args.iou_type)
    found = average_precision(
        ground_truth,
        results,
        args.iou_type,
        rules=args.rules,
        library=args.library,
        max_dets=args.max_dets,
    )
    metrics = {name: value for name, value in found.items() if not name.startswith("AP-")}
    lines = [f"{args.ground_truth}: {describe(ground_truth)}", f"{len(results):,} results"]
    lines += [f"{name:5} {value:7.3f}" for name, value in metrics.items()]
    content = {name: None if math.isnan(value) else value for name, value in metrics.items()}
    return "\n".join([*lines, ""]), content


def _check_output(path: Path, inputs: set[str]) -> None:
    if path.is_dir():
        raise ConfigError(f"--output {path} is a folder, not a file")
    if not os.access(path.parent, os.W_OK | os.X_OK) or not path.parent.is_dir():
        raise ConfigError(f"--output {path}: {path.parent} is no folder that can be written to")
    if path.resolve() in {Path(given).resolve() for given in inputs}:
        raise ConfigError(f"--output {path} is also an input")
