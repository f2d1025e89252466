"""The command line of train_net.py."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from detectron2.engine import launch
from detectron2.utils import comm

import ranking_det.data
import ranking_det.modeling  # noqa: F401 - both register their parts in Detectron2
from ranking_det.config import ConfigError
from ranking_det.engine.errors import check_num_gpus
from ranking_det.engine.lazy_trainer import run_lazy
from ranking_det.engine.yaml_trainer import run_yaml

EXAMPLES = """\
examples:
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py train.max_iter=300
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py --eval-only \\
      train.init_checkpoint=output/shapes/retinanet_atss_rs/model_final.pth
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.yaml SOLVER.MAX_ITER 300
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
        help="a LazyConfig (.py), or the config of a registered model (.yaml)",
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
    parser.add_argument("--num-gpus", type=int, default=1, help="number of GPUs per machine")
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


def run(args: argparse.Namespace) -> None:
    """What each process runs; the last line that it prints is the output folder."""
    if args.config_file.endswith(".py"):
        output_dir = run_lazy(args)
    elif args.config_file.endswith((".yaml", ".yml")):
        output_dir = run_yaml(args)
    else:
        raise ConfigError(f"--config-file must end in .py, .yaml or .yml, got {args.config_file!r}")
    if comm.is_main_process():
        sys.stdout.write(f"{output_dir}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, launch and return the exit status; what the user got wrong is one line on stderr."""
    args = build_parser().parse_args(argv)
    try:
        check_num_gpus(args.num_gpus, args.num_machines)
        launch(
            run,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except ConfigError as error:
        sys.stderr.write(f"train_net.py: error: {error}\n")
        return 2
    return 0
