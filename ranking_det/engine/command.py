r"""The command line of train_net.py.

examples:
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py --resume
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py \
      train.max_iter=300 train.output_dir=output/try
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py --eval-only \
      train.init_checkpoint=output/shapes/retinanet_atss_rs/model_final.pth
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.yaml SOLVER.MAX_ITER 300
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py \
      --train-json train.json --train-images images --val-json val.json --val-images images
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py --predict photos/*.jpg
"""  # noqa: D405 - it is a part of --help

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from ranking_det.data.coco_json.reader import AnnotationSummary
from ranking_det.user_errors import UserError


@dataclass(frozen=True, kw_only=True)
class Command:
    """What the user asks for; the fields are the flags, which ``--help`` describes."""

    config_file: str
    overrides: Sequence[str] = ()
    trust_config: bool = False
    eval_only: bool = False
    resume: bool = False
    overwrite: bool = False
    train_json: str | None = None
    train_images: str | None = None
    val_json: str | None = None
    val_images: str | None = None
    keep_empty_images: bool = False
    allow_outside: bool = False
    preview: int | None = None
    predict: Sequence[str] = ()
    output: str | None = None
    num_gpus: int = 1
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"
    own_data: Sequence[AnnotationSummary | None] | None = field(default=None, repr=False)
    """What the process that starts others has read of the files for training and validation."""

    @property
    def trains(self) -> bool:
        """Whether it is a training, new or resumed."""
        return not (self.eval_only or self.predict or self.preview is not None)

    @property
    def num_processes(self) -> int:
        """The processes on all machines."""
        return self.num_gpus * self.num_machines


def parse(argv: Sequence[str] | None = None) -> Command:
    """Read the command line; None for the program's own.

    Raises:
        UserError: flags exclude each other.
    """
    args = _build_parser().parse_args(argv)
    # The list of images has taken the overrides behind it.
    while args.predict and "=" in args.predict[-1] and not os.path.exists(args.predict[-1]):
        args.overrides.insert(0, args.predict.pop())
    asked = [args.eval_only, args.resume, args.overwrite, args.preview is not None]
    if sum([*asked, bool(args.predict)]) > 1:
        raise UserError("give one of --eval-only, --resume, --overwrite, --preview and --predict")
    return Command(**vars(args))


def _build_parser() -> argparse.ArgumentParser:
    """The parser; the flags are those of Detectron2's own training scripts."""
    parser = argparse.ArgumentParser(
        prog="train_net.py",
        description="Train and evaluate detectors with ranking losses.",
        epilog=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    config = "a LazyConfig (.py), the config of a registered model (.yaml), or that of a run"
    parser.add_argument("--config-file", required=True, metavar="FILE", help=config)
    for flag, text in {
        "--trust-config": "let a yaml file call whatever it names, which can run any code",
        "--eval-only": "evaluate the given weights, or the last of the output folder",
        "--resume": "go on from the last checkpoint of the output folder; there must be one",
        "--overwrite": "replace the training that is in the output folder, once the new one has a "
        "checkpoint",
    }.items():
        parser.add_argument(flag, action="store_true", help=text)
    group = parser.add_argument_group(
        "your own data", "COCO or LVIS JSON files; the classes of the model are theirs"
    )
    for split, what in (("train", "trained on"), ("val", "evaluated on")):
        group.add_argument(f"--{split}-json", metavar="FILE", help=f"annotations {what}")
        group.add_argument(f"--{split}-images", metavar="FOLDER", help="where its images lie")
    for flag, text in {
        "--keep-empty-images": "train on images without objects too",
        "--allow-outside": "let the JSON files name images outside their folders",
    }.items():
        group.add_argument(flag, action="store_true", help=text)
    preview = "draw N training images as the model sees them, with what is assigned to each object"
    parser.add_argument("--preview", type=int, metavar="N", help=preview)
    images = "detect in image files, folders or patterns, with the given weights or the last ones"
    parser.add_argument("--predict", nargs="+", metavar="IMAGE", default=[], help=images)
    parser.add_argument("--output", metavar="FOLDER", help="of --predict or --preview")
    gpus = "number of GPUs per machine; without any, of processes on the CPU"
    parser.add_argument("--num-gpus", type=int, default=1, help=gpus)
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="this machine's number, from 0")
    url = "where the processes meet, as tcp://HOST:PORT; needed with more than one machine"
    parser.add_argument("--dist-url", default="auto", help=url)
    text = "overrides of the config, last on the line; for yaml also KEY value"
    parser.add_argument("overrides", nargs=argparse.REMAINDER, metavar="key=value", help=text)
    return parser
