"""Makes the shapes data set, if it is not there, and says where it is."""

import argparse
import logging
import sys

from ranking_det.data.shapes import VARIANTS, Settings, prepare_shapes


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser("python -m ranking_det.data.shapes", description=__doc__)
    default = Settings()
    parser.add_argument("--root", help="folder of all data sets; $DETECTRON2_DATASETS or datasets/")
    parser.add_argument("--variant", choices=VARIANTS, default="shapes")
    for name, text in (
        ("train", "number of training images"),
        ("val", "number of validation images"),
        ("size", "side of the images in pixels"),
        ("seed", "of all that is random"),
    ):
        fallback = getattr(default, name)
        parser.add_argument(f"--{name}", type=int, help=f"{text} (a new set has {fallback})")
    parser.add_argument("--workers", type=int, help="threads to draw with; one per core")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        prepare_shapes(**vars(parser.parse_args(argv)))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
