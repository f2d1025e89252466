"""Parse and validate COCO and LVIS JSON: annotation files and result files.

Each process parses an annotation file once. A profile chooses the rules that apply to the entries
of each section: ``TRAINING`` for files to train on, ``REGISTERED`` for registered data sets, whose
boxes and masks are not checked, ``GROUND_TRUTH`` and ``RESULTS`` for evaluation.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from ranking_det.data.coco_json import rules
from ranking_det.data.coco_json.image_files import ImageFinder, check_folder, check_inside
from ranking_det.data.coco_json.rules import Context, Faults, Rule, Size
from ranking_det.user_errors import UserError

logger = logging.getLogger(__name__)

SECTIONS = ("categories", "images", "annotations")
# Seconds. A file that is younger than this when it is read may change again with the same
# modification time.
CLOCK_TICK = 0.05

TRAINING, REGISTERED, GROUND_TRUTH, RESULTS = range(4)

FIELDS: dict[str, dict[str, type]] = {
    "categories": {"id": int, "name": str},
    "images": {"id": int, "width": int, "height": int},
    "annotations": {"id": int, "image_id": int, "category_id": int, "bbox": list},
    "bbox": {"image_id": int, "category_id": int, "bbox": list},
    "segm": {"image_id": int, "category_id": int, "segmentation": dict},
}
"""The keys that an entry must have and their types, by section, or by IoU type for results."""

LVIS_FIELDS: dict[str, dict[str, type]] = {
    "categories": {"frequency": str, "image_count": int},
    "images": rules.LVIS_LISTS,
}

RULES: dict[str, dict[Rule, Sequence[int]]] = {
    "categories": {
        rules.unique_id: (TRAINING, REGISTERED),
        rules.exact_id: (GROUND_TRUTH,),
        rules.distinct_name: (TRAINING, REGISTERED),
        rules.encodable_name: (TRAINING, REGISTERED, GROUND_TRUTH),
        rules.frequency: (TRAINING, REGISTERED, GROUND_TRUTH),
    },
    "images": {
        rules.unique_id: (TRAINING, REGISTERED),
        rules.exact_id: (GROUND_TRUTH,),
        rules.sides: (TRAINING, REGISTERED, GROUND_TRUTH),
        rules.federated_lists: (TRAINING, REGISTERED),
        rules.evaluated_lists: (GROUND_TRUTH,),
        rules.image_name: (TRAINING, REGISTERED),
    },
    "annotations": {
        rules.unique_id: (TRAINING,),
        rules.references: (TRAINING, REGISTERED, GROUND_TRUTH),
        rules.box_inside: (TRAINING,),
        rules.box_not_negative: (GROUND_TRUTH,),
        rules.segmentation: (TRAINING, GROUND_TRUTH),
        rules.optional_values: (TRAINING, GROUND_TRUTH),
    },
    "bbox": dict.fromkeys([rules.references, rules.score, rules.box_numbers], (RESULTS,)),
    "segm": dict.fromkeys([rules.references, rules.score, rules.result_segmentation], (RESULTS,)),
}
"""The profiles that apply each rule, by section. The faults of an entry come in this order."""


@dataclass(frozen=True)
class AnnotationSummary:
    """Summary of a checked annotation file: its format, classes and counts.

    Attributes:
        json_file: the path of the file.
        format: "lvis" if images have ``neg_category_ids`` or ``not_exhaustive_category_ids``, which
            only LVIS has; else "coco".
        category_ids: the ids in the file, ascending; class k of a model is category_ids[k].
        class_names: the names of the categories, in the same order.
        image_counts: LVIS's ``image_count`` of the categories, in the same order; empty for COCO.
        num_images: the number of images.
        num_empty_images: the number of images without an object, crowds aside. Detectron2 leaves
            them out of training.
        num_objects: the number of annotations that are not crowds.
        num_masks: the number of those objects that have a ``segmentation``.
    """

    json_file: str
    format: str
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    image_counts: tuple[int, ...]
    num_images: int
    num_empty_images: int
    num_objects: int
    num_masks: int


@dataclass
class AnnotationFile:
    """A parsed annotation file. All readers share its content, so nobody may change it.

    Attributes:
        content: the JSON object in the file.
        stamp: modification time, size and inode, which change when the file does; None if they
            cannot be read.
        passed: the checks for registered sets that it has passed: (image folder, LVIS, whether
            images may lie outside).
    """

    content: dict[str, Any]
    stamp: tuple[int, ...] | None
    passed: set[tuple[str, bool, bool]] = field(default_factory=set)


_OPEN_FILES: dict[str, AnnotationFile] = {}


def open_annotations(path: str) -> AnnotationFile:
    """Return a parsed annotation file; parse it if it is new to this process or has changed.

    It stays in memory until :func:`release_annotations`.

    Args:
        path: the JSON file.

    Raises:
        UserError: the file is missing, is not valid JSON, or does not hold an object.
    """
    stamp, key = _stamp(path), os.path.abspath(path)
    file = _OPEN_FILES.get(key)
    if file is None or file.stamp != stamp:
        _OPEN_FILES.pop(key, None)
        content = load_json(path, "annotation file")
        if not isinstance(content, dict):
            expected = f"expected an object with {', '.join(SECTIONS)}"
            raise UserError(f"{path}: {expected}, got {type(content).__name__}")
        file = AnnotationFile(content, stamp)
        if stamp is not None and abs(time.time() - stamp[0] / 1e9) > CLOCK_TICK:
            _OPEN_FILES[key] = file
    return file


def release_annotations(*paths: str) -> None:
    """Free the memory of parsed annotation files. Opening one again parses it again.

    COCO's training file takes gigabytes, which nobody needs once its records are made.

    Args:
        paths: the JSON files; those that are not open are skipped.
    """
    for path in paths:
        _OPEN_FILES.pop(os.path.abspath(path), None)


def _stamp(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def load_json(path: str, what: str) -> Any:
    """Load a JSON file, with one-line errors.

    Args:
        path: the file.
        what: the name of its kind in messages, such as "annotation file".

    Returns:
        The content, of any type.

    Raises:
        UserError: the file is missing or is not valid JSON.
    """
    if os.path.isdir(path):
        raise UserError(f"the {what} {path!r} is a folder, not a file")
    try:
        return _parse(Path(path).read_bytes())
    except FileNotFoundError:
        text = f"the {what} {path!r} does not exist (current folder: {Path.cwd()})"
        raise UserError(text) from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{path}: invalid JSON: {error.msg} at {place}") from None
    except UnicodeDecodeError as error:
        packed = error.object.startswith(b"\x1f\x8b")
        reason = "it is compressed by gzip; unpack it" if packed else "it is not text in UTF-8"
        raise UserError(f"{path}: cannot be read as JSON: {reason}") from None
    # Python raises a plain ValueError for a number of thousands of digits.
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None


def _parse(content: bytes) -> Any:
    collecting = gc.isenabled()
    gc.disable()  # walking over millions of new lists again and again takes a third of the time
    try:
        return json.loads(content.decode())
    finally:
        if collecting:
            gc.enable()


def read_annotations(
    json_file: str | Path, image_root: str | Path | None = None, *, allow_outside: bool = False
) -> AnnotationSummary:
    """Validate a COCO or LVIS JSON and its images before training.

    A box may exceed its image by one pixel, the difference between usual conventions; no box does
    in samples of COCO and LVIS. A larger excess is a fault. A box without width or height is a
    fault too, unless at most one object in 100,000 has such a box, as in COCO's train2017; training
    leaves these out. An annotation needs ``id``, ``image_id``, ``category_id`` and ``bbox``;
    ``segmentation``, ``area`` and ``iscrowd`` are optional. Image sizes are those after the EXIF
    rotation, as Detectron2 sees them.

    Args:
        json_file: the annotation file.
        image_root: the folder of the images. An image is found by its ``file_name``, or by the last
            two parts or the last part of its ``coco_url``. None checks the JSON alone.
        allow_outside: whether images may lie outside the folder. Links inside the folder are
            always followed.

    Returns:
        A summary of the file.

    Raises:
        UserError: the file is missing, is not in this format, or has faulty entries. The message
            counts all faults and shows the first ten, one per line.
    """
    path = str(json_file)
    file = open_annotations(path)
    context, faults = _check_file(file.content, path, TRAINING, image_root, allow_outside)
    images, annotations = file.content["images"], file.content["annotations"]
    _forgive(faults, annotations)
    faults.check()
    objects = Counter(a["image_id"] for a in annotations if not a.get("iscrowd"))
    if not objects:
        raise UserError(f"{path}: all annotations are crowds; there is no object to train on")
    if image_root is not None:  # the rules for registered sets are a subset of these
        file.passed.add((str(image_root), context.lvis, allow_outside))
    categories = sorted(file.content["categories"], key=itemgetter("id"))
    return AnnotationSummary(
        json_file=path,
        format="lvis" if context.lvis else "coco",
        category_ids=tuple(context.categories),
        class_names=tuple(context.categories.values()),
        image_counts=tuple(c["image_count"] for c in categories if context.lvis),
        num_images=len(images),
        num_empty_images=len(images) - len(objects),
        num_objects=objects.total(),
        num_masks=sum(bool(a.get("segmentation")) and not a.get("iscrowd") for a in annotations),
    )


def open_registered(
    path: str, image_root: str, *, lvis: bool, allow_outside: bool
) -> dict[str, Any]:
    """Return the content of the JSON of a registered data set, which nobody may change.

    Boxes and masks are not checked.

    Args:
        path: the annotation file.
        image_root: the folder of the images.
        lvis: whether the file must have LVIS's fields.
        allow_outside: whether images may lie outside the folder.

    Raises:
        UserError: the file is missing or not in its format; an image has no name, leaves its folder
            or is missing; or an annotation refers to an unknown image or category.
    """
    file, check = open_annotations(path), (str(image_root), lvis, allow_outside)
    if check not in file.passed:
        _check_file(file.content, path, REGISTERED, image_root, allow_outside, lvis)[1].check()
        file.passed.add(check)
    return file.content


def check_ground_truth(content: dict[str, Any], where: str, *, lvis: bool, masks: bool) -> None:
    """Validate the ground truth of an evaluation.

    It checks only what an evaluation needs. Image names, LVIS's counts and the place of a box are
    not checked, and a box may have no area.

    Args:
        content: the content of a COCO or LVIS JSON: ``images``, ``annotations``, ``categories``.
        where: its name in messages, such as its path.
        lvis: whether LVIS's fields are required.
        masks: whether to check the masks of the annotations that have one.

    Raises:
        UserError: a section or field is missing or inconsistent. The message names the first fault.
    """
    context = Context(lvis, place="the ground truth", masks=masks)
    faults = Faults(where, first_only=True)
    for section in SECTIONS:
        entries = content.get(section)
        if type(entries) is not list:
            raise UserError(f"{where}: has no list {section!r}, which COCO and LVIS files have")
        if section == "categories" and not entries:
            raise UserError(f"{where}: 'categories' is empty")
        _check_section(section, entries, GROUND_TRUTH, context, faults)
        repeated = len(entries) - len({entry["id"] for entry in entries})
        if repeated:
            raise UserError(f"{where}: {repeated} ids of {section!r} are not unique")


def read_results(path: str, ground_truth: Mapping[str, Any], iou_type: str) -> list[dict[str, Any]]:
    """Read and validate detections in COCO's result format.

    Args:
        path: the result file.
        ground_truth: the content of the annotation file, which has the images and categories that
            results may refer to.
        iou_type: "bbox" or "segm".

    Returns:
        The results, with ``image_id``, ``category_id``, ``score``, and ``bbox`` (x, y, width,
        height in pixels) or ``segmentation`` (compressed RLE).

    Raises:
        UserError: the file is missing, is not valid JSON, or is faulty. The message names the first
            fault.
    """
    results = load_json(path, "result file")
    if not isinstance(results, list):
        kind = type(results).__name__
        raise UserError(f"{path}: expected a list of results, got {kind}")
    context = Context(
        lvis=False,
        place="the ground truth",
        categories={category["id"]: category["name"] for category in ground_truth["categories"]},
        sizes={**image_sizes(ground_truth)},
    )
    faults = Faults(path, first_only=True)
    _check_section(iou_type, results, RESULTS, context, faults)
    return results


def check_same_categories(train: AnnotationSummary, val: AnnotationSummary) -> None:
    """Check that the training and the validation file have the same categories.

    Args:
        train: the summary of the training file.
        val: the summary of the validation file.

    Raises:
        UserError: an id or a name differs. The message names the first difference.
    """
    train_names = dict(zip(train.category_ids, train.class_names, strict=True))
    val_names = dict(zip(val.category_ids, val.class_names, strict=True))
    for identity in sorted(train_names.keys() | val_names.keys()):
        pair = train_names.get(identity), val_names.get(identity)
        if pair[0] != pair[1]:
            first, second = ("missing" if name is None else repr(name) for name in pair)
            names = f"{first} in {train.json_file} and {second} in {val.json_file}"
            text = "training and validation have different categories"
            raise UserError(f"{text}: category {identity} is {names}")


def is_lvis(images: Sequence[Any]) -> bool:
    """Return whether the images of a file have LVIS's fields.

    Args:
        images: the entries; faulty ones are skipped.
    """
    keys = rules.LVIS_LISTS.keys()
    return any(isinstance(image, dict) and keys & image.keys() for image in images)


def image_sizes(content: Mapping[str, Any]) -> dict[int, Size]:
    """Return the (width, height) in pixels of the images of a file by id.

    Args:
        content: the content of a JSON file without faults.
    """
    return {image["id"]: (image["width"], image["height"]) for image in content["images"]}


def _check_file(
    content: dict[str, Any],
    path: str,
    profile: int,
    image_root: str | Path | None,
    allow_outside: bool,
    lvis: bool | None = None,
) -> tuple[Context, Faults]:
    """Check all entries; return the context of the file and its faults.

    Raises:
        UserError: the file lacks a section, or its image folder does not fit.
    """
    for section in SECTIONS:
        if section not in content:
            raise UserError(f"{path}: has no {section!r}, which COCO and LVIS files have")
        if not isinstance(content[section], list):
            kind = type(content[section]).__name__
            raise UserError(f"{path}: {section!r}: expected a list, got {kind}")
        if not content[section]:
            raise UserError(f"{path}: {section!r} is empty")
    images = content["images"]
    context, faults = Context(is_lvis(images) if lvis is None else lvis), Faults(path)
    if profile == TRAINING:
        context.opened = -(-len(images) // rules.MAX_OPENED)
    if image_root is not None:
        check_folder(image_root)
        if not allow_outside:
            check_inside(images, image_root, path)
        context.finder = ImageFinder(image_root)
    for section in SECTIONS:
        _check_section(section, content[section], profile, context, faults)
    return context, faults


def _check_section(
    section: str, entries: Sequence[Any], profile: int, context: Context, faults: Faults
) -> None:
    """Add the faults of the entries; note the categories and images for the next sections."""
    fields = FIELDS[section] | (LVIS_FIELDS.get(section, {}) if context.lvis else {})
    if profile == GROUND_TRUTH:
        fields.pop("image_count", None)  # only losses need it
    section_rules = [rule for rule, profiles in RULES[section].items() if profile in profiles]
    context.section, context.ids = section, set()
    for index, entry in enumerate(entries):
        entry_faults = rules.type_faults(entry, fields)
        has_fields = not entry_faults
        if has_fields:
            for rule in section_rules:
                entry_faults += rule(entry, context)
        if section in ("categories", "images"):
            _note(entry, context, has_fields=has_fields, is_named=not entry_faults)
        if section == "images" and not entry_faults:
            entry_faults += rules.image_file(entry, index, context)
        if entry_faults:
            faults.add(section, index, entry, entry_faults)
    context.categories = dict(sorted(context.categories.items()))


def _note(entry: Any, context: Context, *, has_fields: bool, is_named: bool) -> None:
    """Note the id even of a faulty entry, so that references to it are not faults too."""
    if type(entry) is not dict or type(entry.get("id")) is not int:
        return
    context.ids.add(entry["id"])
    if context.section == "categories":
        context.categories.setdefault(entry["id"], entry["name"] if is_named else "")
    else:
        is_sized = has_fields and not any(rules.sides(entry, context))
        size = (entry["width"], entry["height"]) if is_sized else None
        context.sizes.setdefault(entry["id"], size)


def _forgive(faults: Faults, annotations: Sequence[dict[str, Any]]) -> None:
    """Forgive a few boxes without width or height in a large file, if it has no other fault."""
    count = faults.counts[rules.FLAT]
    if count and count == faults.counts.total():
        num_objects = sum(not annotation.get("iscrowd") for annotation in annotations)
        if count <= rules.FORGIVEN[rules.FLAT] * num_objects:
            logger.warning("%s: boxes without width or height: %d", faults.where, count)
            del faults.counts[rules.FLAT]
