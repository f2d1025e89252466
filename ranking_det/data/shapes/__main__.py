"""Command line that generates the shapes data set."""

import argparse
import logging
import sys

from ranking_det.data.shapes import VARIANTS, Settings, prepare_shapes
from ranking_det.user_errors import UserError, run_command

PROGRAM = "python -m ranking_det.data.shapes"
DESCRIPTION = """\
Generate the synthetic shapes data set, unless it exists, and print its folder.

An existing set is kept. It is an error if its settings differ from the requested ones.
"""
EPILOG = """\
example:
  python -m ranking_det.data.shapes --root datasets --train 1000 --val 250
"""


def main(argv: list[str] | None = None) -> int:
    """Generate the data set from the command line.

    Args:
        argv: the arguments; None for ``sys.argv[1:]``.

    Returns:
        The exit status: 2 for a user error, which is printed as one line on stderr, else 0.
    """
    parser = argparse.ArgumentParser(
        PROGRAM,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Settings()
    root = "folder of all data sets (default: $DETECTRON2_DATASETS, else datasets/)"
    parser.add_argument("--root", metavar="FOLDER", help=root)
    variant = "shapes: 12 classes, COCO JSON; shapes_lvis: 98 long-tailed classes, LVIS JSON"
    parser.add_argument(
        "--variant", choices=VARIANTS, default="shapes", help=f"{variant} (default: shapes)"
    )
    for name, text in (
        ("train", "number of training images"),
        ("val", "number of validation images"),
        ("size", "side of the square images in pixels"),
        ("seed", "random seed"),
    ):
        text += f" (default for a new set: {getattr(default, name)})"
        parser.add_argument(f"--{name}", type=int, metavar="N", help=text)
    workers = "threads that draw (default: one per CPU core, at most 8)"
    parser.add_argument("--workers", type=int, metavar="N", help=workers)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    args = parser.parse_args(argv)
    return run_command(PROGRAM, lambda: _generate(args))


def _generate(args: argparse.Namespace) -> str:
    try:
        prepare_shapes(**vars(args))
    except ValueError as error:
        raise UserError(str(error)) from error
    return ""  # the log names the folder


if __name__ == "__main__":
    sys.exit(main())
