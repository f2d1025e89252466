"""Command line of ``python -m ranking_det.evaluation``: AP and oLRP of a result file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ranking_det.data.coco_json.reader import ReadOptions
from ranking_det.data.coco_json.results import read_results
from ranking_det.evaluation import metrics
from ranking_det.evaluation.ground_truth import describe, read_ground_truth
from ranking_det.evaluation.libraries import LIBRARIES, check_library
from ranking_det.files import without_nan, write_json, write_table
from ranking_det.path_checks import check_outputs
from ranking_det.user_errors import quantity, run_command

PROGRAM = "python -m ranking_det.evaluation"
DESCRIPTION = "Compute AP and oLRP of detections in a file in COCO's result format."
EXAMPLE = """\
example:
  {program} {rules} \\
      --ground-truth {ground_truth} \\
      --results {rules}_instances_results.json --iou-type bbox \\
      --output metrics.json --per-class classes.csv
"""
ANNOTATIONS = {
    "coco": "datasets/coco/annotations/instances_val2017.json",
    "lvis": "datasets/lvis/lvis_v1_val.json",
}


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser, with a subcommand for the rules of each data set."""
    options: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    names = {"program": PROGRAM, "rules": "coco", "ground_truth": ANNOTATIONS["coco"]}
    example = EXAMPLE.format(**names)
    parser = argparse.ArgumentParser(PROGRAM, description=DESCRIPTION, epilog=example, **options)
    commands = parser.add_subparsers(dest="rules", required=True)
    for rules, limit in metrics.MAX_DETS.items():
        kind, scope = ("federated ", "all classes") if rules == "lvis" else ("", "each class")
        text = f"AP and oLRP by {rules.upper()}'s {kind}rules, in percent"
        names = {"program": PROGRAM, "rules": rules, "ground_truth": ANNOTATIONS[rules]}
        example = EXAMPLE.format(**names)
        command = commands.add_parser(rules, help=text, description=text, epilog=example, **options)
        for flag, meaning in (
            ("--ground-truth", f"annotation file in {rules.upper()}'s format"),
            ("--results", "detections in COCO's result format, or predictions.json of --predict"),
        ):
            command.add_argument(flag, required=True, metavar="FILE", help=meaning)
        meaning = "evaluate boxes (bbox) or masks (segm)"
        types = list(metrics.FIELDS)
        command.add_argument("--iou-type", required=True, choices=types, help=meaning)
        command.add_argument("--output", metavar="FILE", help="write the metrics to this JSON")
        meaning = "write the metrics of each class to this CSV"
        command.add_argument("--per-class", metavar="FILE", help=meaning)
        meaning = f"maximum number of detections of {scope} per image (default: {limit})"
        command.add_argument("--max-dets", type=int, default=limit, metavar="N", help=meaning)
        for flag, meaning in (
            (
                "--strict",
                "reject a ground truth with any object that would be left out or corrected",
            ),
            ("--crowds-are-objects", "treat annotations with iscrowd 1 as objects"),
        ):
            command.add_argument(flag, action="store_true", help=meaning)
        meaning = "maximum number of objects of the ground truth that may be left out or cut to "
        meaning += "under half of their box (default: 10, or 5%% of the objects if that is more)"
        command.add_argument("--max-faults", type=int, metavar="N", help=meaning)
        command.set_defaults(library=LIBRARIES[0])
        if rules == "coco":
            meaning = f"library that matches detections with objects (default: {LIBRARIES[0]})"
            command.add_argument("--library", choices=LIBRARIES, help=meaning)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate a result file from the command line.

    Args:
        argv: the arguments; None for ``sys.argv[1:]``.

    Returns:
        The exit status: 2 for a user error, which is printed as one line on stderr, else 0.
    """
    args = build_parser().parse_args(argv)
    return run_command(PROGRAM, lambda: _evaluate(args))


def _evaluate(args: argparse.Namespace) -> str:
    """Evaluate and write the requested files; return the text to print."""
    check_library(args.library, lvis=args.rules == "lvis")
    metrics.choose_max_dets(args.max_dets, args.rules, "--max-dets")
    inputs = {"the ground truth": args.ground_truth, "the results": args.results}
    check_outputs(inputs, {"--output": args.output, "--per-class": args.per_class})
    names = ("strict", "max_faults", "crowds_are_objects")
    options = ReadOptions(**{name: vars(args)[name] for name in names})
    ground_truth, notes = read_ground_truth(args.ground_truth, args.rules, args.iou_type, options)
    results = read_results(args.results, ground_truth, args.iou_type)
    settings = {name: vars(args)[name] for name in ("rules", "library", "max_dets")}
    all_metrics = metrics.detection_metrics(ground_truth, results, args.iou_type, **settings)
    overall = metrics.overall(all_metrics)
    if args.output:
        write_json(Path(args.output), without_nan(overall))
    if args.per_class:
        # The categories are sorted by id.
        classes = [category["name"] for category in ground_truth["categories"]]
        rows = metrics.per_class_rows({"": all_metrics}, classes)
        write_table(Path(args.per_class), ["class", *metrics.COLUMNS], rows)
    lines = [f"{args.ground_truth}: {describe(ground_truth)}", *notes]
    lines.append(quantity(len(results), "result", "results"))
    lines += [f"{name:7} {value:7.3f}" for name, value in overall.items()]
    return "\n".join([*lines, ""])
