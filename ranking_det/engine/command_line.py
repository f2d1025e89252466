"""The command line of train_net.py."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from detectron2.utils import comm

import ranking_det.data
import ranking_det.modeling  # noqa: F401 - both register their parts in Detectron2
from ranking_det.engine.guards import NonFiniteLossError
from ranking_det.engine.launching import check_processes, start, under_torchrun
from ranking_det.engine.run import check_first, run
from ranking_det.user_errors import UserError

EXAMPLES = """\
examples:
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py --resume
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py \\
      train.max_iter=300 train.output_dir=output/try
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py --eval-only \\
      train.init_checkpoint=output/shapes/retinanet_atss_rs/model_final.pth
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.yaml SOLVER.MAX_ITER 300
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py \\
      --train-json train.json --train-images images --val-json val.json --val-images images
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py --predict photos/*.jpg
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser; the flags are those of Detectron2's own training scripts."""
    parser = argparse.ArgumentParser(
        prog="train_net.py",
        description="Train and evaluate detectors with ranking losses.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file",
        required=True,
        metavar="FILE",
        help="a LazyConfig (.py), the config of a registered model (.yaml), or that of a run",
    )
    parser.add_argument(
        "--trust-config",
        action="store_true",
        help="let a yaml file call whatever it names, which can run any code",
    )
    parser.add_argument(
        "--eval-only",
        action="store_true",
        help="evaluate the given weights, or the last of the output folder",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint of the output folder; there must be one",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the training that is in the output folder, once the new one has a checkpoint",
    )
    _add_own_data(parser)
    parser.add_argument(
        "--preview",
        type=int,
        metavar="N",
        help="draw N training images as the model sees them, with what is assigned to each object",
    )
    parser.add_argument(
        "--predict",
        nargs="+",
        metavar="IMAGE",
        default=[],
        help="detect in image files, folders or patterns, with the given weights or the last ones",
    )
    parser.add_argument("--output", metavar="FOLDER", help="of --predict or --preview")
    parser.add_argument(
        "--num-gpus",
        type=int,
        default=1,
        help="number of GPUs per machine; without any, of processes on the CPU",
    )
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="this machine's number, from 0")
    parser.add_argument(
        "--dist-url",
        default="auto",
        help="where the processes meet, as tcp://HOST:PORT; needed with more than one machine",
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="key=value",
        help="overrides of the config, last on the line; for yaml also KEY value",
    )
    return parser


def _add_own_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "your own data", "COCO or LVIS JSON files; the classes of the model are theirs"
    )
    for split, what in (("train", "trained on"), ("val", "evaluated on")):
        group.add_argument(f"--{split}-json", metavar="FILE", help=f"annotations {what}")
        group.add_argument(f"--{split}-images", metavar="FOLDER", help="where its images lie")
    group.add_argument(
        "--keep-empty-images", action="store_true", help="train on images without objects too"
    )
    group.add_argument(
        "--allow-outside",
        action="store_true",
        help="let the JSON files name images outside their folders",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, launch and return the exit status; what the user got wrong is one line on stderr."""
    args = build_parser().parse_args(argv)
    # The list of images has taken the overrides behind it.
    while args.predict and "=" in args.predict[-1] and not os.path.exists(args.predict[-1]):
        args.opts.insert(0, args.predict.pop())
    try:
        asked = [args.eval_only, args.resume, args.overwrite, args.preview is not None]
        if sum([*asked, bool(args.predict)]) > 1:
            raise UserError(
                "give one of --eval-only, --resume, --overwrite, --preview and --predict"
            )
        if args.num_gpus * args.num_machines > 1 and not under_torchrun():
            check_processes(args)
            check_first(args)
        return start(_work, args)
    except UserError as error:
        return _complain(error)


def _work(args: argparse.Namespace) -> int:
    """What each process does; the last line printed is the folder with the results."""
    try:
        folder = run(args)
    except UserError as error:
        return _complain(error)
    except NonFiniteLossError as error:
        return _complain(error, status=1)
    if comm.is_main_process():
        sys.stdout.write(f"{folder}\n")
    return 0


def _complain(error: Exception, status: int = 2) -> int:
    # A loading process hands its error on as a text with the traceback.
    text = str(error).rpartition(f"{type(error).__qualname__}: ")[2].strip()
    sys.stderr.write(f"train_net.py: error: {text}\n")
    return status
