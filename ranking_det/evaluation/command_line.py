"""The command line of ``python -m ranking_det.evaluation``."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from ranking_det.data.coco_json.reader import read_results
from ranking_det.evaluation import metrics
from ranking_det.evaluation.ground_truth import describe, read_ground_truth
from ranking_det.evaluation.libraries import check_library
from ranking_det.files import partial_path, write_json, write_table
from ranking_det.user_errors import UserError

PROGRAM = "python -m ranking_det.evaluation"


def build_parser() -> argparse.ArgumentParser:
    """The parser: a command for the rules of each data set."""
    parser = argparse.ArgumentParser(PROGRAM, description="AP of a file in COCO's result format.")
    commands = parser.add_subparsers(dest="rules", required=True)
    for rules, limit in metrics.MAX_DETS.items():
        kind, of = ("federated ", "all classes") if rules == "lvis" else ("", "each class")
        text = f"AP by {rules.upper()}'s {kind}rules"
        command = commands.add_parser(rules, help=text, description=text)
        command.add_argument("--ground-truth", required=True, metavar="FILE", help="annotations")
        command.add_argument("--results", required=True, metavar="FILE", help="detections")
        command.add_argument("--iou-type", required=True, choices=list(metrics.FIELDS))
        command.add_argument("--output", metavar="FILE", help="gets the metrics as JSON")
        command.add_argument("--per-class", metavar="FILE", help="gets the AP of classes as CSV")
        meaning = f"detections of {of} in an image that count (default {limit})"
        command.add_argument("--max-dets", type=int, default=limit, metavar="N", help=meaning)
        command.set_defaults(library="faster-coco-eval")
        if rules == "coco":
            command.add_argument("--library", choices=["faster-coco-eval", "pycocotools"])
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, and return the exit status; what the user got wrong is one line on stderr."""
    args = build_parser().parse_args(argv)
    try:
        sys.stdout.write(_evaluate(args))
    except (UserError, OSError) as error:
        sys.stderr.write(f"{PROGRAM}: error: {error}\n")
        return 2
    return 0


def _evaluate(args: argparse.Namespace) -> str:
    """What to print, after the files that were asked for are written."""
    check_library(args.library, lvis=args.rules == "lvis")
    metrics.choose_max_dets(args.max_dets, args.rules, "--max-dets")
    _check_outputs(args)
    ground_truth = read_ground_truth(args.ground_truth, args.rules, args.iou_type)
    if args.per_class:
        _check_names(ground_truth["categories"], args.ground_truth)
    results = read_results(args.results, ground_truth, args.iou_type)
    options = {name: vars(args)[name] for name in ("rules", "library", "max_dets")}
    all_metrics = metrics.average_precision(ground_truth, results, args.iou_type, **options)
    overall = {name: ap for name, ap in all_metrics.items() if not name.startswith("AP-")}
    if args.output:
        # JSON has no NaN.
        content = {name: None if math.isnan(value) else value for name, value in overall.items()}
        write_json(Path(args.output), content)
    if args.per_class:
        categories = sorted(ground_truth["categories"], key=itemgetter("id"))
        names = [category["name"] for category in categories]
        of_class = metrics.class_precision(all_metrics, names)
        rows = [{"class": name, "AP": metrics.precision_cell(ap)} for name, ap in of_class.items()]
        write_table(Path(args.per_class), ["class", "AP"], rows)
    lines = [f"{args.ground_truth}: {describe(ground_truth)}", f"{len(results):,} results"]
    lines += [f"{name:5} {value:7.3f}" for name, value in overall.items()]
    return "\n".join([*lines, ""])


def _check_names(categories: Sequence[Mapping[str, Any]], where: str) -> None:
    name, count = Counter(category["name"] for category in categories).most_common(1)[0]
    if count > 1:
        raise UserError(f"{where}: {count} categories have the name {name!r}; --per-class needs 1")


def _check_outputs(args: argparse.Namespace) -> None:
    inputs = ((args.ground_truth, "the ground truth"), (args.results, "the results"))
    taken = {Path(path).resolve(): what for path, what in inputs}
    for flag, path in (("--output", args.output), ("--per-class", args.per_class)):
        if not path:
            continue
        final = Path(path).resolve()
        if not os.access(final.parent, os.W_OK | os.X_OK) or not final.parent.is_dir():
            raise UserError(f"{flag} {path}: {final.parent} is no folder that can be written to")
        partial = partial_path(final)
        if len(os.fsencode(partial.name)) > os.pathconf(final.parent, "PC_NAME_MAX"):
            raise UserError(f"{flag} {path}: no file can have the name {partial.name}")
        for used in (final, partial):
            if used.exists() and not used.is_file():
                raise UserError(f"{flag} {used} is a folder or device, not a file")
            if used.resolve() in taken:
                raise UserError(f"{flag} {used} is also {taken[used.resolve()]}")
        taken |= {final: flag, partial: flag}
