"""Report on a data set before training: read it, measure it, and write an HTML page."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.structures import Boxes, Instances, PolygonMasks

import ranking_det.modeling  # noqa: F401 - registers the models in Detectron2
from ranking_det.analysis.advice import advise
from ranking_det.data.coco_json.faults import LEFT_OUT, SKIPPED, Fault
from ranking_det.data.coco_json.image_files import ImageFinder, check_folder, check_inside
from ranking_det.data.coco_json.reader import (
    Annotations,
    AnnotationSummary,
    ReadOptions,
    check_content,
    load_json,
    summarize,
)
from ranking_det.data.formats.coco_files import NAME, CocoSplit, find_splits, is_coco
from ranking_det.data.formats.sources import ALL, convert, find_source
from ranking_det.data.images import UnreadableImageError
from ranking_det.data.mapper import read_array, transform_masks
from ranking_det.data.object_statistics import (
    ImageObjects,
    choose_samples,
    find_copies,
    group_objects,
    measure,
    shortest_edge_scales,
)
from ranking_det.engine.checkpoint import load_weights
from ranking_det.engine.custom_data import NUM_DECODED, write_faults
from ranking_det.engine.missed_objects import count_positives, input_sizes
from ranking_det.engine.run_config import RunConfig, load_config
from ranking_det.files import write_json, write_whole
from ranking_det.modeling.interface import interface_of
from ranking_det.path_checks import check_apart, check_output_dir
from ranking_det.user_errors import UserError
from ranking_det.visualization.data_page import (
    SamplePicture,
    draw_sample,
    picture_transform,
    render_page,
)

PAGE, NUMBERS = "data.html", "data.json"

MAX_PICTURES, MAX_OTHERS = 12, 4
"""Numbers of pictures on the page, for the first split and for each of the others."""

MAX_FAULTS = 100
"""Maximum number of faults in data.json; the page shows the first ten of them."""

SHORT_SIDE, LONG_SIDE = 800, 1333
"""The input size that is assumed without a config, in pixels: the one of the COCO configs."""


class _DataSet(NamedTuple):
    summary: str
    notes: list[str]
    warnings: list[str]
    parts: dict[str, CocoSplit]  # by split
    faults: list[Fault]  # of the original files, before conversion


class _Split(NamedTuple):
    annotations: Annotations
    summary: AnnotationSummary
    images: list[ImageObjects]


def write_report(args: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    """Write the page, the numbers and the table of faults.

    Args:
        args: the arguments of ``python -m ranking_det.analysis data``.
        overrides: overrides of keys of the config.

    Returns:
        The lines to print: the advice and the path of the page.

    Raises:
        UserError: the data, the config or the folder cannot be used.
    """
    check_output_dir(args.output, "--output")
    check_apart(args.output, {"DATA": args.data, "--images": args.images}, "--output")
    if overrides and args.config_file is None:
        raise UserError(f"{' '.join(overrides)}: overrides need --config-file FILE")
    config = None
    if args.config_file is not None:
        config = load_config(args.config_file, overrides, trust=args.trust_config)
    data = _find_splits(args)
    warnings = list(data.warnings)
    splits = {name: _read_split(args, name, part, warnings) for name, part in data.parts.items()}
    statistics, input_text = {}, ""
    for name, split in splits.items():
        scales, input_text = _input_scales(config, split.images)
        names = [category["name"] for category in split.annotations.categories]
        statistics[name] = measure(split.images, names, scales, split.summary.num_crowds)
    copies = find_copies({name: split.images for name, split in splits.items()})
    first = next(iter(splits))
    positives, positives_note = _count_positives(config, splits[first])
    split_faults = [(None, fault) for fault in data.faults]
    split_faults += [(split, fault) for split in splits.values() for fault in split.summary.faults]
    faults = [_fault_row(fault, split) for split, fault in split_faults]
    left_out = sum(fault["action"] in (LEFT_OUT, SKIPPED) for fault in faults)
    notes = [f"{name}: {note}" for name, split in splits.items() for note in split.summary.notes]
    report: dict[str, Any] = {
        "source": args.data,
        "summary": data.summary,
        "input": input_text,
        "config": args.config_file,
        "advice": warnings + advise(statistics, copies, positives, left_out, args.config_file),
        "splits": {name: asdict(numbers) for name, numbers in statistics.items()},
        "copies": asdict(copies),
        "positives": positives and asdict(positives) | {"split": first},
        "positives_note": positives_note,
        "notes": data.notes + notes,
        "faults": faults[:MAX_FAULTS],
    }
    pictures = {
        name: _draw_samples(split, MAX_PICTURES if name == first else MAX_OTHERS)
        for name, split in splits.items()
    }
    page = render_page(report, pictures)
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    write_faults([fault for _, fault in split_faults], folder)
    write_json(folder / NUMBERS, report)
    write_whole(folder / PAGE, page)
    return [*report["advice"], str(folder / PAGE)]


def _find_splits(args: argparse.Namespace) -> _DataSet:
    """Find the splits of the data set.

    Raises:
        UserError: no data set is found, or a flag does not fit its format.
    """
    content = None
    if os.path.isfile(args.data) and args.data.lower().endswith(".json"):
        content = load_json(args.data, "annotation file")
    if is_coco(content):
        return _find_coco(args, content)
    if args.images is not None:
        raise UserError(f"--images is for a COCO or LVIS JSON, but DATA is {args.data}")
    options = ReadOptions(max_faults=args.max_faults, allow_outside=args.allow_outside)
    source = find_source(args.data, options, format_name=args.format_name, exclude=args.output)
    available = list(source.splits)
    if args.split is not None and args.split not in available:
        raise UserError(f"--split {args.split}: {args.data} has {', '.join(available)}")
    chosen = [args.split] if args.split else [name for name in available if name != ALL] or [ALL]
    if "train" in chosen and "trainval" in chosen:
        chosen.remove("trainval")  # the images of train and val again
    parts = {name: convert(source, name) for name in chosen}
    return _DataSet(source.summary, source.lines[1:], [], parts, source.faults.rows)


def _find_coco(args: argparse.Namespace, content: Any) -> _DataSet:
    """Return the only split of a COCO or LVIS JSON, whose images may be missing."""
    path, root, warnings = os.path.abspath(args.data), args.images, []
    if root is None:
        try:
            (file,) = find_splits(os.path.dirname(path), {path: content}).values()
            root = file.image_root
        except UserError as error:
            effect = "so the page has no sample images or duplicates; pass --images FOLDER"
            warnings.append(f"{error}; {effect}")
    else:
        check_folder(root)
    part = CocoSplit(content, root or "", args.data)
    return _DataSet(NAME, [], warnings, {args.split or ALL: part}, [])


def _read_split(
    args: argparse.Namespace, name: str, part: CocoSplit, warnings: list[str]
) -> _Split:
    """Check a split as training does, but only warn about images that training would reject."""
    where = part.json_file or f"{args.data} ({name})"
    names = ("max_faults", "crowds_are_objects", "allow_outside")
    options = ReadOptions(
        **{key: vars(args)[key] for key in names},
        masks=True,
        max_decoded=NUM_DECODED,
        image_root=part.image_root or None,
    )
    try:
        annotations = check_content(part.content, where, options)
    except UserError as error:
        # Check again without the images: this raises again unless the images are the reason.
        annotations = check_content(part.content, where, replace(options, image_root=None))
        if not args.allow_outside:
            check_inside(annotations.images, part.image_root, where)
        warnings.append(f"Training would reject these images: {str(error).splitlines()[0]}")
    paths: Sequence[str | None] = annotations.image_files
    if not paths:
        finder = ImageFinder(part.image_root)
        paths = [
            (finder.find(image) or finder.guess(image)) if part.image_root else None
            for image in annotations.images
        ]
    summary = summarize(annotations, options)
    return _Split(annotations, summary, group_objects(annotations, paths))


def _fault_row(fault: Fault, split: _Split | None) -> dict[str, str]:
    """Return the fields of a fault as text, with the file name of its image if it is known."""
    images = zip(split.annotations.images, split.images, strict=True) if split else ()
    names = (image.name for entry, image in images if entry["id"] == fault.image)
    texts = {key: str(value) for key, value in fault._asdict().items()}
    return texts | {"file_name": next(names, "")}


def _input_scales(
    config: RunConfig | None, images: Sequence[ImageObjects]
) -> tuple[np.ndarray, str]:
    """Return the factors from image files to the input of a model, and their description."""
    if config is None:
        text = f"shorter side {SHORT_SIDE} px, longer side at most {LONG_SIDE:,} px"
        scales = shortest_edge_scales(images, SHORT_SIDE, LONG_SIDE)
        return scales, f"{text}, as in the COCO configs"
    inputs = input_sizes(config, images)
    sizes = np.array([image.size for image in images])
    width, height = np.median(inputs, axis=0)
    median = f"with a median of {width:,.0f} × {height:,.0f} px"
    scales = np.sqrt(inputs.prod(axis=1) / sizes.prod(axis=1))
    return scales, f"resized by the config's test mapper, {median}"


def _count_positives(config: RunConfig | None, split: _Split) -> tuple[Any, str]:
    """Return the counts of positives for a config, or None and the reason."""
    if config is None:
        flag = "--config-file CONFIG, such as configs/coco/retinanet_atss_rs_r50_12ep.py"
        return None, f"To count them for the anchors and the assigner of a config, add {flag}."
    config.set_num_classes(len(split.annotations.categories))
    model = config.model().train()
    is_cpu = not torch.cuda.is_available()
    model.to("cpu" if is_cpu else config.train.device)
    if interface_of(model).positives_need_images:
        load_weights(model, config.train.init_checkpoint, strict=False)
    counts = count_positives(config, model, split.images)
    if counts is None:
        return None, f"{type(model).__name__} reports no positives, or no image could be read."
    return counts, ""


def _draw_samples(split: _Split, count: int) -> list[SamplePicture]:
    names = [category["name"] for category in split.annotations.categories]
    pictures = []
    for index, remark in choose_samples(split.images, count).items():
        image = split.images[index]
        try:
            pixels = read_array(image.path or "", "RGB", image.size)
        except (UnreadableImageError, OSError):
            continue
        transform = picture_transform(pixels.shape[:2])
        pixels = transform.apply_image(pixels)
        instances = Instances(pixels.shape[:2])
        instances.pred_boxes = Boxes(transform.apply_box(image.boxes))
        instances.pred_classes = torch.as_tensor(image.classes)
        if any(image.masks):
            masks = transform_masks(image.masks, transform, pixels.shape[:2])
            is_polygons = isinstance(masks, PolygonMasks)
            instances.pred_masks = masks.polygons if is_polygons else masks.tensor
        pictures.append(draw_sample(image.name, remark, pixels, instances, names))
    return pictures
