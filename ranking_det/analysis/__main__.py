"""Command line of ``python -m ranking_det.analysis``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, get_args

from ranking_det.analysis.data_report import write_report
from ranking_det.analysis.detection_metrics import write_detection_numbers, write_lrp
from ranking_det.analysis.detection_report import write_detection_report
from ranking_det.analysis.reverse_pair_report import write_pairs
from ranking_det.analysis.score_fitting import SWEEP, write_fit, write_sweep
from ranking_det.analysis.task_imbalance import write_imbalance
from ranking_det.data.formats.sources import FORMATS
from ranking_det.engine.command import TRUST_CONFIG
from ranking_det.evaluation.calibration import Method, Target
from ranking_det.evaluation.metrics import FIELDS
from ranking_det.evaluation.thresholds import KINDS, PRECISION
from ranking_det.user_errors import run_command

PROGRAM = "python -m ranking_det.analysis"
LAYOUT = argparse.RawDescriptionHelpFormatter
DATA_DESCRIPTION = """\
Report on a data set before training. Writes an HTML page (data.html) with sample images, classes,
sizes, crowding, duplicate images, annotation problems, and advice; the same numbers as data.json;
and each problem in data_faults.csv. The page needs no network.
"""
DATA_EXAMPLES = f"""\
examples:
  # Pascal VOC, YOLO, VIA, LabelMe or COCO JSON; the format is detected from the files
  {PROGRAM} data BCCD_Dataset/BCCD --output output/data

  # a COCO or LVIS JSON; also count the objects that a config leaves without a positive
  {PROGRAM} data datasets/shapes/annotations/instances_train.json \\
      --images datasets/shapes/train --output output/data \\
      --config-file configs/shapes/quick/retinanet_atss_rs.py model.assigner.topk=5
"""
LRP_DESCRIPTION = """\
Compute the optimal LRP error (oLRP) of detections by the rules of COCO, or of LVIS if the ground
truth has its fields: the error at the best score threshold of each class, in percent (smaller is
better), its parts for localization, false positives and missed objects, and these thresholds.
"""
LRP_EXAMPLE = f"""\
example:
  {PROGRAM} olrp --ground-truth datasets/shapes/annotations/instances_val.json \\
      --results output/shapes/retinanet_atss_rs/coco_instances_results.json \\
      --iou-type bbox --output olrp.json
"""
DETECTIONS_DESCRIPTION = """\
Compute all metrics of detections by the rules of COCO, or of LVIS if the ground truth has its
fields: AP, oLRP, pooled AP, correlation of score and IoU, precision, recall and F1, the confusion
matrix, and what each kind of error costs in AP, overall and per class.
"""
DETECTIONS_EXAMPLE = f"""\
example:
  {PROGRAM} detections --ground-truth datasets/shapes/annotations/instances_val.json \\
      --results output/shapes/retinanet_atss_rs/coco_instances_results.json \\
      --iou-type bbox --output detections.json
"""
REPORT_DESCRIPTION = """\
Compare the detections of one or more detectors. Writes an HTML page (report.html) with AP, oLRP,
precision-recall curves, scores, thresholds, errors, classes, and the images with the largest
ranking errors; the same numbers as report.json; and the pictures with their numbers in
report_pictures. The page needs no network.
"""
REPORT_EXAMPLE = f"""\
example:
  {PROGRAM} report --ground-truth datasets/shapes/annotations/instances_val.json \\
      --results focal=output/shapes/retinanet_atss_focal/coco_instances_results.json \\
                rs=output/shapes/retinanet_atss_rs/coco_instances_results.json \\
      --metrics focal=output/shapes/retinanet_atss_focal/metrics.json \\
                rs=output/shapes/retinanet_atss_rs/metrics.json \\
      --images datasets/shapes/val --output output/report
"""
FIT_DESCRIPTION = """\
Fit scores: calibrators, which map the scores of each class to the IoU or the precision to expect,
and score thresholds of each class. They are fitted to one half of the images, measured on the
other, and written to a JSON that --eval-only --fitted and --predict --fitted of train_net.py use.
"""
FIT_EXAMPLE = f"""\
example:
  {PROGRAM} fit --ground-truth datasets/shapes/annotations/instances_val.json \\
      --results output/shapes/retinanet_atss_rs/coco_instances_results.json --iou-type bbox \\
      --checkpoint output/shapes/retinanet_atss_rs/model_final.pth \\
      --output output/shapes/retinanet_atss_rs/model_final.scores.json
"""
SWEEP_DESCRIPTION = """\
Compute AP, F1 and LRP in percent, and the detections per image, at several score thresholds; with
a config also the milliseconds that its model takes for an image.
"""
SWEEP_EXAMPLE = f"""\
examples:
  {PROGRAM} sweep --ground-truth datasets/shapes/annotations/instances_val.json \\
      --results output/shapes/retinanet_atss_rs/coco_instances_results.json --iou-type bbox \\
      --output sweep.json

  # also the speed, of the last checkpoint of the output folder; overrides follow as key=value
  {PROGRAM} sweep --ground-truth datasets/shapes/annotations/instances_val.json \\
      --results output/shapes/retinanet_atss_rs/coco_instances_results.json --iou-type bbox \\
      --output sweep.json --config-file configs/shapes/retinanet_atss_rs.py
"""

PAIRS_DESCRIPTION = """\
Count the reverse pairs of a model on the test sets of its config: pairs of candidates of an image
whose scores have the wrong order. Writes the ratios and counts of foreground-background,
positive-negative and positive-positive pairs of each head, by class and by feature level, as JSON.
"""
PAIRS_EXAMPLE = f"""\
example:
  {PROGRAM} pairs --config-file configs/shapes/quick/retinanet_atss_rs.py \\
      --output pairs.json train.init_checkpoint=output/shapes/quick/retinanet_atss_rs/model_best.pth
"""
IMBALANCE_DESCRIPTION = """\
Average the number of negative tasks per positive task of each head over the iterations of a
training run. With K classes, a positive candidate is one positive and K - 1 negative tasks, and a
negative candidate is K negative tasks.
"""
IMBALANCE_EXAMPLE = f"""\
example:
  {PROGRAM} imbalance --metrics output/shapes/quick/faster_rs/metrics.json --iterations 125
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser, with a subcommand for each analysis."""
    examples = "\n".join(
        (DATA_EXAMPLES, LRP_EXAMPLE, DETECTIONS_EXAMPLE, REPORT_EXAMPLE, FIT_EXAMPLE)
        + (SWEEP_EXAMPLE, PAIRS_EXAMPLE, IMBALANCE_EXAMPLE)
    )
    parser = argparse.ArgumentParser(PROGRAM, epilog=examples, formatter_class=LAYOUT)
    commands = parser.add_subparsers(dest="analysis", required=True)
    _add_data(commands)
    _add_olrp(commands)
    _add_detections(commands)
    _add_report(commands)
    _add_fit(commands)
    _add_sweep(commands)
    _add_pairs(commands)
    _add_imbalance(commands)
    return parser


def _add_data(commands: Any) -> None:
    text = {"description": DATA_DESCRIPTION, "epilog": DATA_EXAMPLES, "formatter_class": LAYOUT}
    command = commands.add_parser("data", help="describe a data set before training", **text)
    command.set_defaults(write=write_report)
    meaning = "folder of the data set, or its data.yaml, COCO, LVIS, VIA or LabelMe JSON"
    command.add_argument("data", metavar="DATA", help=meaning)
    meaning = "folder to write to; a report from an earlier run is replaced"
    command.add_argument("--output", required=True, metavar="FOLDER", help=meaning)
    meaning = "folder of the images of a COCO or LVIS JSON (default: found by their names)"
    command.add_argument("--images", metavar="FOLDER", help=meaning)
    meaning = "format of DATA, if it has annotations in several formats"
    command.add_argument("--from", dest="format_name", choices=list(FORMATS), help=meaning)
    meaning = "describe these images only, such as train (default: all splits)"
    command.add_argument("--split", metavar="NAME", help=meaning)
    meaning = "count the positives of this config's anchors and assigner; overrides of its keys "
    meaning += "follow as key=value"
    _add_config(command, meaning)
    meaning = "maximum number of objects of a split that may be left out or cut to under half of "
    meaning += "their box (default: 10, or 5%% of the objects if that is more)"
    command.add_argument("--max-faults", type=int, metavar="N", help=meaning)
    meaning = "treat annotations with iscrowd 1 as objects"
    command.add_argument("--crowds-are-objects", action="store_true", help=meaning)
    meaning = "accept images outside the folder of a data.yaml or the image folder of a COCO JSON"
    command.add_argument("--allow-outside", action="store_true", help=meaning)


def _add_olrp(commands: Any) -> None:
    text = {"description": LRP_DESCRIPTION, "epilog": LRP_EXAMPLE, "formatter_class": LAYOUT}
    command = commands.add_parser("olrp", help="optimal LRP error of detections", **text)
    command.set_defaults(write=lambda args, _: write_lrp(args))
    _add_files(command)


def _add_detections(commands: Any) -> None:
    text = {"description": DETECTIONS_DESCRIPTION, "epilog": DETECTIONS_EXAMPLE}
    meaning = "all metrics of detections"
    command = commands.add_parser("detections", help=meaning, formatter_class=LAYOUT, **text)
    command.set_defaults(write=lambda args, _: write_detection_numbers(args))
    _add_files(command)
    meaning = "minimum score of the detections that precision, recall, F1 and the confusion matrix "
    meaning += "count (default: the one with the highest F1 of all classes together)"
    command.add_argument("--score-threshold", type=float, metavar="T", help=meaning)


def _add_report(commands: Any) -> None:
    text = {"description": REPORT_DESCRIPTION, "epilog": REPORT_EXAMPLE, "formatter_class": LAYOUT}
    command = commands.add_parser("report", help="compare detectors on an HTML page", **text)
    command.set_defaults(write=lambda args, _: write_detection_report(args))
    meaning = "annotation file in COCO's or LVIS's format"
    command.add_argument("--ground-truth", required=True, metavar="FILE", help=meaning)
    for flag, meaning in (
        ("--results", "detections of each detector in COCO's result format, or predictions.json"),
        ("--metrics", "metrics.json of their training runs, for the training curves"),
        ("--pairs", "reverse pairs of their models, as `analysis pairs` writes them"),
    ):
        needed = {"required": True} if flag == "--results" else {"default": []}
        command.add_argument(flag, nargs="+", metavar="NAME=FILE", help=meaning, **needed)
    meaning = "compare boxes (bbox) or masks (segm) (default: bbox)"
    command.add_argument("--iou-type", default="bbox", choices=list(FIELDS), help=meaning)
    meaning = "folder of the images, to draw detections over them"
    command.add_argument("--images", metavar="FOLDER", help=meaning)
    meaning = "folder to write to; a report from an earlier run is replaced"
    command.add_argument("--output", required=True, metavar="FOLDER", help=meaning)


def _add_files(command: argparse.ArgumentParser) -> None:
    """Add the files of an analysis of detections: what is compared, and the JSON to write."""
    for flag, meaning in (
        ("--ground-truth", "annotation file in COCO's or LVIS's format"),
        ("--results", "detections in COCO's result format, or predictions.json of --predict"),
        ("--output", "write the numbers to this JSON"),
    ):
        command.add_argument(flag, required=True, metavar="FILE", help=meaning)
    meaning = "compare boxes (bbox) or masks (segm)"
    command.add_argument("--iou-type", required=True, choices=list(FIELDS), help=meaning)


def _add_config(command: argparse.ArgumentParser, meaning: str, *, required: bool = False) -> None:
    """Add the flags of an analysis that loads a config."""
    command.add_argument("--config-file", required=required, metavar="FILE", help=meaning)
    command.add_argument("--trust-config", action="store_true", help=TRUST_CONFIG)


def _add_fit(commands: Any) -> None:
    text = {"description": FIT_DESCRIPTION, "epilog": FIT_EXAMPLE, "formatter_class": LAYOUT}
    command = commands.add_parser("fit", help="calibrate scores and find thresholds", **text)
    command.set_defaults(write=lambda args, _: write_fit(args))
    _add_files(command)
    meaning = "also store the fitted scores in this checkpoint (.pth)"
    command.add_argument("--checkpoint", metavar="FILE", help=meaning)
    for flag, what in (("ground-truth", "annotation file"), ("results", "detections")):
        meaning = f"{what} of other images to measure on (default: a random half of the images)"
        command.add_argument(f"--measure-{flag}", metavar="FILE", help=meaning)
    meaning = "seed of the choice of the halves (default: 0)"
    command.add_argument("--seed", type=int, default=0, metavar="N", help=meaning)
    meaning = "what a calibrated score is: the expected IoU with an object (iou) or the expected "
    meaning += "precision at IoU .5 (tp) (default: iou)"
    command.add_argument("--target", choices=get_args(Target), default="iou", help=meaning)
    meaning = "isotonic regression or a line (default: isotonic)"
    command.add_argument("--method", choices=get_args(Method), default="isotonic", help=meaning)
    meaning = f"precision that the thresholds of this kind reach (default: {PRECISION})"
    command.add_argument("--precision", type=float, default=PRECISION, metavar="P", help=meaning)
    meaning = "thresholds that decide what --predict --fitted draws: those with the smallest LRP "
    meaning += "error, the highest F1, or the precision (default: lrp)"
    command.add_argument("--drawn", choices=KINDS, default=KINDS[0], help=meaning)


def _add_sweep(commands: Any) -> None:
    text = {"description": SWEEP_DESCRIPTION, "epilog": SWEEP_EXAMPLE, "formatter_class": LAYOUT}
    command = commands.add_parser("sweep", help="metrics against the score threshold", **text)
    command.set_defaults(write=write_sweep)
    _add_files(command)
    meaning = "score thresholds, from 0 to 1 (default: {})".format(
        " ".join(map("{:g}".format, SWEEP))
    )
    command.add_argument(
        "--thresholds", type=float, nargs="+", default=SWEEP, metavar="T", help=meaning
    )
    meaning = "also time the model of this config on its test set, with the weights that "
    meaning += "--eval-only would evaluate; overrides of its keys follow as key=value"
    _add_config(command, meaning)
    meaning = "maximum number of images to time the model on (default: 50)"
    command.add_argument("--num-images", type=int, default=50, metavar="N", help=meaning)


def _add_pairs(commands: Any) -> None:
    text = {"description": PAIRS_DESCRIPTION, "epilog": PAIRS_EXAMPLE, "formatter_class": LAYOUT}
    command = commands.add_parser("pairs", help="pairs of candidates in the wrong order", **text)
    command.set_defaults(write=write_pairs)
    meaning = "config of the run, as for train_net.py; overrides of its keys follow as key=value"
    _add_config(command, meaning, required=True)
    meaning = "write the numbers to this JSON"
    command.add_argument("--output", required=True, metavar="FILE", help=meaning)
    meaning = "weights (default: as for train_net.py --eval-only, the last checkpoint of the "
    meaning += "output folder, else the weights of the config)"
    command.add_argument("--weights", metavar="FILE", help=meaning)
    meaning = "your own validation data, as for train_net.py (default: the test sets of the config)"
    command.add_argument("--val", metavar="FOLDER_OR_FILE", help=meaning)
    meaning = "use N images, chosen at random with a fixed seed (default: all images with objects)"
    command.add_argument("--max-images", type=int, metavar="N", help=meaning)


def _add_imbalance(commands: Any) -> None:
    text = {"description": IMBALANCE_DESCRIPTION, "epilog": IMBALANCE_EXAMPLE}
    command = commands.add_parser(
        "imbalance", help="negatives per positive in training", formatter_class=LAYOUT, **text
    )
    command.set_defaults(write=lambda args, _: write_imbalance(args))
    meaning = "metrics.json of a training run"
    command.add_argument("--metrics", required=True, metavar="FILE", help=meaning)
    meaning = "average over the first N iterations only, such as those of an epoch (default: all)"
    command.add_argument("--iterations", type=int, metavar="N", help=meaning)
    command.add_argument("--output", metavar="FILE", help="write the numbers to this JSON")


def main(argv: Sequence[str] | None = None) -> int:
    """Run an analysis from the command line.

    Args:
        argv: the arguments; None for ``sys.argv[1:]``.

    Returns:
        The exit status: 2 for a user error and 1 for another failure, which are printed as one line
        on stderr, else 0.
    """
    parser = build_parser()
    args, overrides = parser.parse_known_args(argv)
    has_config = args.analysis in ("data", "pairs", "sweep")
    unknown = [
        word for word in overrides if word.startswith("-") or "=" not in word or not has_config
    ]
    if unknown:
        parser.error(f"unknown arguments: {' '.join(unknown)}")
    return run_command(
        PROGRAM, lambda: "".join(f"{line}\n" for line in args.write(args, overrides))
    )


if __name__ == "__main__":
    sys.exit(main())
