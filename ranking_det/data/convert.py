"""Command line of ``python -m ranking_det.data.convert``: convert data sets between formats."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ranking_det.data.coco_json.faults import SKIPPED
from ranking_det.data.coco_json.reader import ReadOptions, check_content, summarize
from ranking_det.data.formats import writers
from ranking_det.data.formats.coco_files import BOX_FORMS, convert_boxes
from ranking_det.data.formats.coco_files import NAME as COCO
from ranking_det.data.formats.sources import ALL, FORMATS, Source, convert, find_source
from ranking_det.data.formats.via import NAME as VIA
from ranking_det.user_errors import UserError, run_command

PROGRAM = "python -m ranking_det.data.convert"
DESCRIPTION = """\
Convert a data set to COCO JSON, YOLO or Pascal VOC. The format of SOURCE is recognized by its
files: Pascal VOC, YOLO (boxes or polygons), VIA, LabelMe, or COCO JSON. SOURCE is not changed.
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
  python -m ranking_det.data.convert train.json --output corrected --boxes xyxy
"""
TARGETS = ("coco", "yolo", "voc")
SPLITS = ("train", "val", "test")


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        PROGRAM, description=DESCRIPTION, epilog=EPILOG, formatter_class=formatter
    )

    def add(flag: str, text: str, **settings: Any) -> None:
        parser.add_argument(flag, help=text, **settings)

    text = "folder of the data set, or its data.yaml, COCO, VIA or LabelMe JSON"
    add("source", text, metavar="SOURCE")
    text = "folder to write, which must not exist"
    add("--output", text, required=True, metavar="FOLDER")
    add("--to", "format to write (default: coco)", choices=TARGETS, default="coco")
    text = "format of SOURCE, if it has annotations of several"
    add("--from", text, dest="format_name", choices=list(FORMATS))
    text = "convert these images only (default: all splits)"
    add("--split", text, choices=[*SPLITS, "trainval"])
    text = "form of the boxes in a COCO JSON: x, y, width, height; x1, y1, x2, y2; or x, y, width, "
    text += "height as fractions of the image's width and height (default: xywh)"
    add("--boxes", text, choices=BOX_FORMS, default="xywh")
    text = "region attribute that names the class, for VIA (default: the one most regions have)"
    add("--class-attribute", text, metavar="NAME")
    add("--copy", "copy the images instead of making links to them", action="store_true")
    text = "accept images outside the folder of a data.yaml, or of the images of a COCO JSON"
    add("--allow-outside", text, action="store_true")
    text = "maximum number of faulty objects, and of faulty images, which are left out (default: "
    text += "10, or 5%% if that is more)"
    add("--max-faults", text, type=int, metavar="N")
    add("--strict", "refuse a data set with any faulty object or image", action="store_true")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a data set from the command line.

    Args:
        argv: the arguments; None for ``sys.argv[1:]``.

    Returns:
        The exit status: 2 for a user error, which is printed as one line on stderr, else 0.
    """
    args = build_parser().parse_args(argv)
    return run_command(PROGRAM, lambda: "".join(f"{line}\n" for line in _convert(args)))


def _convert(args: argparse.Namespace) -> list[str]:
    """Convert; return the lines to print."""
    _check_output(args.output, args.source)
    names = ("strict", "max_faults", "allow_outside")
    options = ReadOptions(**{name: vars(args)[name] for name in names}, masks=True)
    choices = {"format_name": args.format_name, "class_attribute": args.class_attribute}
    source = find_source(args.source, options, **choices)
    for flag, value, default, format_name in (
        ("--boxes", args.boxes, "xywh", COCO),
        ("--class-attribute", args.class_attribute, None, VIA),
    ):
        if value != default and source.format != format_name:
            text = f"{flag} {value} is for {format_name}; {args.source} is {source.format}"
            raise UserError(text)
    parts, checked, counts, lines = {}, {}, [], []
    for split, name in _choose_splits(source, args.split, args.to).items():
        part = convert(source, split)
        data_name = part.json_file or source.path
        parts[name] = (
            part._replace(content=convert_boxes(part.content, args.boxes, data_name)),
            data_name,
        )
        count = len(part.content["images"])
        if args.to != "coco":
            # YOLO labels have no image sizes, so check the sizes in the JSON against all images.
            part_options = replace(options, image_root=part.image_root, max_headers=count)
            checked[name] = check_content(parts[name][0].content, data_name, part_options)
            lines += [f"{name}: {note}" for note in summarize(checked[name], part_options).notes]
            count -= checked[name].faults.total(SKIPPED)
        counts.append(f"{count:,} {name}")
    with writers.new_folder(args.output) as folder:
        for name, (part, data_name) in parts.items() if args.to == "coco" else ():
            flags = {"copy": args.copy, "allow_outside": args.allow_outside}
            lines += writers.write_coco(folder, name, part, data_name, **flags)
        if checked:
            write = writers.WRITERS[args.to]
            lines += write(folder, checked, source.classes, copy=args.copy)
    written = f"written: {args.output} ({FORMATS[args.to]}, {', '.join(counts)})"
    return [*source.lines, *lines, written]


def _check_output(output: str, source: str) -> None:
    """Raise UserError if the output folder exists or is inside the source."""
    if not output:
        raise UserError(f"--output: expected a folder, got {output!r}")
    if os.path.lexists(output):
        raise UserError(f"--output {output} already exists; remove it or choose another folder")
    # Otherwise the source would later have annotations of two formats.
    output_path, root = os.path.realpath(output), os.path.realpath(source)
    if os.path.isdir(source) and os.path.commonpath([output_path, root]) == root:
        raise UserError(f"--output {output}: expected a folder outside of {source}")


def _choose_splits(source: Source, split: str | None, target: str) -> dict[str, str]:
    """Return the name under which to write each split of the source, by split."""
    available = list(source.splits)
    if available == [ALL]:
        return {ALL: split or "train"}
    if split is not None:
        if split not in available:
            split_list = ", ".join(available)
            raise UserError(
                f"--split {split}: {source.path} has no such images (it has {split_list})"
            )
        return {split: split}
    split_names = [name for name in available if name != ALL]
    if target != "voc" and "train" in split_names and "trainval" in split_names:
        split_names.remove("trainval")  # the images of train and val again
    return {name: name for name in split_names}


if __name__ == "__main__":
    sys.exit(main())
