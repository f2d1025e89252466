r"""Parse the command line of train_net.py.

examples:
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py --resume
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py \
      train.max_iter=300 train.output_dir=output/try
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py --eval-only \
      train.init_checkpoint=output/shapes/retinanet_atss_rs/model_final.pth
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.yaml SOLVER.MAX_ITER 300
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py --train BCCD_Dataset
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py \
      --train-json train.json --train-images images --val-json val.json --val-images images
  python train_net.py --config-file configs/shapes/retinanet_atss_rs.py --predict photos/*.jpg
"""  # noqa: D405 - the examples are a part of --help

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ranking_det.user_errors import UserError

TRUST_CONFIG = (
    "let a YAML config call any function that it names, which can run any code (default: only "
    "functions listed in ranking_det/engine/safe_config.py)"
)
"""Help text of ``--trust-config``, a flag of every command that loads a config."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """The parsed command line; its fields are the flags that ``--help`` describes."""

    config_file: str
    overrides: Sequence[str] = ()
    trust_config: bool = False
    eval_only: bool = False
    resume: bool = False
    overwrite: bool = False
    train: str | None = None
    val: str | None = None
    train_json: str | None = None
    train_images: str | None = None
    val_json: str | None = None
    val_images: str | None = None
    keep_empty_images: bool = False
    allow_outside: bool = False
    strict: bool = False
    max_faults: int | None = None
    crowds_are_objects: bool = False
    check_images: bool = False
    max_pixels: int | None = None
    preview: int | None = None
    predict: Sequence[str] = ()
    output: str | None = None
    fitted: str | bool = False
    num_gpus: int = 1
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"
    custom_data: tuple[Any, ...] | None = field(default=None, repr=False)
    """The ``CustomData`` of the user's files, if a parent process has read them."""

    @property
    def trains(self) -> bool:
        """Whether the command trains, from the start or resumed."""
        return not (self.eval_only or self.predict or self.preview is not None)

    @property
    def num_processes(self) -> int:
        """Number of processes on all machines together."""
        return self.num_gpus * self.num_machines


def parse(argv: Sequence[str] | None = None) -> Command:
    """Parse command-line arguments.

    Args:
        argv: the arguments; None for ``sys.argv[1:]``.

    Raises:
        UserError: two flags exclude each other, or a value is empty.
    """
    args = _build_parser().parse_args(argv)
    # argparse counts overrides after the images of --predict as images.
    while args.predict and "=" in args.predict[-1] and not os.path.exists(args.predict[-1]):
        args.overrides.insert(0, args.predict.pop())
    # It counts the first override after --fitted as the file.
    if isinstance(args.fitted, str) and args.fitted and not args.fitted.endswith(".json"):
        args.overrides.insert(0, args.fitted)
        args.fitted = True
    for flag, value in vars(args).items():
        if value == "" or (flag == "predict" and "" in value):
            raise UserError(f"--{flag.replace('_', '-')}: expected a value, got ''")
    _check_modes(args)
    sources = [flag for flag in ("train", "val") if vars(args)[flag] is not None]
    files = [f"{flag}_{part}" for flag in ("train", "val") for part in ("json", "images")]
    files = [flag for flag in files if vars(args)[flag] is not None]
    if sources and files:
        raise UserError(
            f"--{files[0].replace('_', '-')}: expected this flag only without --{sources[0]}; give "
            "--train and --val, which take a JSON file too, or --train-json, --train-images, "
            "--val-json and --val-images"
        )
    late_flag = next((word for word in args.overrides if word.startswith("--")), "")
    if late_flag:
        raise UserError(
            f"overrides: expected key=value, got {late_flag!r}; options go before the overrides "
            "(--help lists them)"
        )
    if args.max_pixels is not None and args.max_pixels < 1:
        raise UserError(f"--max-pixels: expected at least 1, got {args.max_pixels}")
    return Command(**vars(args))


def _check_modes(args: argparse.Namespace) -> None:
    """Raise UserError if flags of several modes are given, or one without its mode."""
    modes = {
        "--eval-only": args.eval_only,
        "--resume": args.resume,
        "--overwrite": args.overwrite,
        "--preview": args.preview is not None,
        "--predict": bool(args.predict),
    }
    mode_flags = [flag for flag, is_given in modes.items() if is_given]
    if len(mode_flags) > 1:
        raise UserError(
            f"{', '.join(modes)}: expected at most one of these flags, got "
            f"{' and '.join(mode_flags)}"
        )
    if args.output and not (args.predict or args.preview is not None):
        raise UserError(
            "--output: expected --predict or --preview with it; the folder of a training "
            "run or evaluation is set by train.output_dir=FOLDER (yaml: OUTPUT_DIR=FOLDER)"
        )
    if args.fitted and not (args.eval_only or args.predict):
        raise UserError(
            "--fitted: expected --eval-only or --predict with it; training does not use fitted "
            "scores"
        )


def _build_parser() -> argparse.ArgumentParser:
    """Build the parser; flags shared with Detectron2's training scripts have the same names."""
    parser = argparse.ArgumentParser(
        prog="train_net.py",
        description="Train, evaluate and run object detectors with ranking losses.",
        epilog=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    config = "config of the run: a LazyConfig (.py), the YAML config of a registered model, or the "
    config += "config.yaml that an earlier run saved (required)"
    parser.add_argument("--config-file", required=True, metavar="FILE", help=config)
    for flag, text in {
        "--trust-config": TRUST_CONFIG,
        "--eval-only": "evaluate instead of training, with the weights given on the command line, "
        "else the last checkpoint of the output folder, else the weights of the config",
        "--resume": "continue training from the last checkpoint of the output folder, which "
        "must have one",
        "--overwrite": "replace the training run in the output folder, but keep its files until "
        "the new run has a checkpoint",
    }.items():
        parser.add_argument(flag, action="store_true", help=text)
    preview = "draw N training images as the model gets them, with the positives assigned to each "
    preview += "object, instead of training"
    parser.add_argument("--preview", type=int, metavar="N", help=preview)
    images = "detect objects in image files, folders or patterns instead of training, with the "
    images += "same weights as --eval-only"
    parser.add_argument("--predict", nargs="+", metavar="IMAGE", default=[], help=images)
    output = "folder for the results of --predict or --preview (default: predictions/ or preview/ "
    output += "in the output folder)"
    parser.add_argument("--output", metavar="FOLDER", help=output)
    fitted = "use the calibrated scores and the thresholds that python -m ranking_det.analysis fit "
    fitted += "has fitted, with --eval-only or --predict (default FILE: those stored in the "
    fitted += "checkpoint, else NAME.scores.json next to NAME.pth)"
    parser.add_argument(
        "--fitted", nargs="?", const=True, default=False, metavar="FILE.json", help=fitted
    )

    group = parser.add_argument_group(
        "your own data",
        "Data sets in COCO JSON, Pascal VOC, YOLO, VIA or LabelMe format, or COCO or LVIS JSON "
        "files with their image folders; the model gets their classes.",
    )
    text = "folder or file of a data set to train on; unless it is COCO JSON from which no "
    text += "validation images are split off, COCO JSON files are written to data/ of the output "
    text += "folder (default: the data sets of the config)"
    group.add_argument("--train", metavar="FOLDER_OR_FILE", help=text)
    text = "folder or file of a data set to evaluate on (default: the validation images of --train "
    text += "or, if it has none, a fifth of its images)"
    group.add_argument("--val", metavar="FOLDER_OR_FILE", help=text)
    for split, name, use in (("train", "training", "train"), ("val", "validation", "evaluate")):
        json_file = f"annotation file to {use} on (default: the data sets of the config)"
        images = f"folder of the {name} images (required with --{split}-json)"
        group.add_argument(f"--{split}-json", metavar="FILE", help=json_file)
        group.add_argument(f"--{split}-images", metavar="FOLDER", help=images)
    for flag, text in {
        "--keep-empty-images": "also train on images without objects (default: as in the config)",
        "--allow-outside": "accept image files outside the image folders (default: refuse them)",
        "--strict": "refuse a file with any object that would be left out or corrected",
        "--crowds-are-objects": "treat annotations with iscrowd 1 as objects, such as brush masks "
        "from CVAT (default: crowds are not learned)",
        "--check-images": "decode all images before training or evaluation, to find unreadable "
        "ones (default: an even sample of 200 of each file)",
    }.items():
        group.add_argument(flag, action="store_true", help=text)
    text = "maximum number of objects of a file that may be left out or cut to under half of their "
    text += "box (default: 10, or 5%% of the objects if that is more)"
    group.add_argument("--max-faults", type=int, metavar="N", help=text)

    text = "maximum number of pixels of an image (default: 178956970, which protects against "
    text += "decompression bombs)"
    parser.add_argument("--max-pixels", type=int, metavar="N", help=text)

    group = parser.add_argument_group("several processes")
    gpus = "number of GPUs per machine, or of processes on a machine without GPUs (default: 1)"
    machines = "number of machines (default: 1)"
    rank = "index of this machine, from 0 to the number of machines - 1 (default: 0)"
    url = "address of machine 0, tcp://HOST:PORT, required for several machines (default: auto, a "
    url += "free port of this machine)"
    group.add_argument("--num-gpus", type=int, default=1, metavar="N", help=gpus)
    group.add_argument("--num-machines", type=int, default=1, metavar="N", help=machines)
    group.add_argument("--machine-rank", type=int, default=0, metavar="RANK", help=rank)
    group.add_argument("--dist-url", default="auto", metavar="URL", help=url)

    text = "overrides of config keys, last on the command line; YAML configs also take KEY value"
    parser.add_argument("overrides", nargs=argparse.REMAINDER, metavar="key=value", help=text)
    return parser
