"""Command line of ``python -m ranking_det.data.convert``: convert data sets between formats."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ranking_det.data.formats import writers
from ranking_det.data.formats.annotated_images import AnnotatedImage, Findings
from ranking_det.data.formats.coco_files import NAME as COCO
from ranking_det.data.formats.coco_objects import BOX_FORMS, mend_boxes, read_objects
from ranking_det.data.formats.sources import ALL, FORMATS, Converted, Source, convert, find_source
from ranking_det.user_errors import UserError

PROGRAM = "python -m ranking_det.data.convert"
DESCRIPTION = """\
Convert a data set to COCO JSON, YOLO or Pascal VOC. The format of SOURCE is recognised by its
files: Pascal VOC, YOLO (boxes or polygons), VIA, LabelMe, or COCO JSON. Nothing in it is changed.
"""
EPILOG = """\
examples:
  # Pascal VOC to COCO JSON, with the splits that its lists give
  python -m ranking_det.data.convert BCCD_Dataset/BCCD --output bccd_coco

  # COCO JSON to YOLO; the images lie next to the JSON files, as annotation tools export them
  python -m ranking_det.data.convert export/ --output export_yolo --to yolo

  # the validation images only, with copies of the images instead of links
  python -m ranking_det.data.convert export/ --output val_voc --to voc --split val --copy

  # a COCO JSON whose boxes are x1, y1, x2, y2
  python -m ranking_det.data.convert train.json --output mended --boxes xyxy
"""
TARGETS = ("coco", "yolo", "voc")
SPLITS = ("train", "val", "test")


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = argparse.ArgumentParser(
        PROGRAM,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    text = "folder of the data set, or its data.yaml, COCO, VIA or LabelMe JSON"
    parser.add_argument("source", metavar="SOURCE", help=text)
    text = "folder to write, which must not exist"
    parser.add_argument("--output", required=True, metavar="FOLDER", help=text)
    text = "format to write (default: coco)"
    parser.add_argument("--to", choices=TARGETS, default="coco", help=text)
    text = "format of SOURCE, if it has annotations of several"
    parser.add_argument("--from", dest="format_name", choices=list(FORMATS), help=text)
    text = "convert these images only (default: all splits)"
    parser.add_argument("--split", choices=[*SPLITS, "trainval"], help=text)
    text = (
        "form of the boxes in a COCO JSON: x, y, width, height; x1, y1, x2, y2; or shares of the "
        "image's width and height (default: xywh)"
    )
    parser.add_argument("--boxes", choices=BOX_FORMS, default="xywh", help=text)
    text = "region attribute that names the class, for VIA (default: the one most regions have)"
    parser.add_argument("--class-attribute", metavar="NAME", help=text)
    text = "copy the images instead of making links to them"
    parser.add_argument("--copy", action="store_true", help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a data set from the command line.

    Args:
        argv: the arguments; default those of the process.

    Returns:
        The exit status: 2 for a mistake of the user, which is one line on stderr, else 0.
    """
    args = build_parser().parse_args(argv)
    try:
        lines = _convert(args)
    except (UserError, OSError) as error:
        sys.stderr.write(f"{PROGRAM}: error: {error}\n")
        return 2
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def _convert(args: argparse.Namespace) -> list[str]:
    """Convert; return the lines to print."""
    if os.path.lexists(args.output):
        raise UserError(f"--output {args.output} exists; give another folder, or remove it")
    source = find_source(
        args.source, format_name=args.format_name, class_attribute=args.class_attribute
    )
    if args.boxes != "xywh" and source.format != COCO:
        raise UserError(f"--boxes {args.boxes} is for COCO JSON; {args.source} is {source.format}")
    splits = _choose_splits(source, args.split, args.to)
    converted = {name: convert(source, split) for split, name in splits.items()}
    converted = {
        name: part._replace(content=mend_boxes(part.content, args.boxes, _where(source, part)))
        for name, part in converted.items()
    }
    with writers.new_folder(args.output) as folder:
        if args.to == "coco":
            lines = [
                line
                for name, part in converted.items()
                for line in writers.write_coco(
                    folder, name, part.content, part.image_root, copy=args.copy
                )
            ]
        else:
            lines = _write_others(args, source, converted, folder)
    counts = ", ".join(f"{len(part.content['images']):,} {n}" for n, part in converted.items())
    return [*source.lines, *lines, f"written: {args.output} ({FORMATS[args.to]}, {counts})"]


def _where(source: Source, part: Converted) -> str:
    return part.json_file or source.path


def _choose_splits(source: Source, split: str | None, target: str) -> dict[str, str]:
    """Return the names to write by the splits of the source."""
    available = list(source.splits)
    if available == [ALL]:
        return {ALL: split or "train"}
    if split is not None:
        if split not in available:
            known = ", ".join(available)
            raise UserError(f"--split {split}: {source.path} has no such images (it has {known})")
        return {split: split}
    named = [name for name in available if name != ALL]
    if target != "voc" and "train" in named and "trainval" in named:
        named.remove("trainval")  # the images of train and val again
    return {name: name for name in named}


def _write_others(
    args: argparse.Namespace, source: Source, converted: dict[str, Converted], folder: Path
) -> list[str]:
    findings = Findings()
    images: dict[str, list[AnnotatedImage]] = {}
    for name, part in converted.items():
        where = _where(source, part)
        images[name] = read_objects(part.content, part.image_root, where, findings)
    images = writers.drop_unreadable(images, findings)
    members = [image for part in images.values() for image in part]
    num_objects = sum(len(image.objects) for image in members)
    findings.check(source.path, len(members), num_objects)
    if not members:
        raise UserError(f"{source.path}: no image to write; {findings.images[0]}")
    write = writers.WRITERS[args.to]
    names = writers.flat_names(images)
    lines = write(folder, images, source.classes, names, copy=args.copy)
    return [*findings.lines(len(members), num_objects), *lines]


if __name__ == "__main__":
    sys.exit(main())
