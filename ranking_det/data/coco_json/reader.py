"""Read COCO and LVIS JSON by the same rules for training, evaluation, preview and prediction.

Harmless faults are converted, corrected or left out, and counted. Faults are refused if training or
evaluation with them would differ from what the user meant. No file is changed. Each file is parsed
once per process.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ranking_det.data.coco_json import rules
from ranking_det.data.coco_json.faults import CORRECTED, CUT, LEFT_OUT, NOTED, Fault, Faults
from ranking_det.data.coco_json.fields import (
    FIELDS,
    LVIS_FIELDS,
    Entry,
    Section,
    as_floats,
    read_boxes,
    read_section,
)
from ranking_det.data.coco_json.image_files import find_images
from ranking_det.data.coco_json.mask_rules import Size, keep_usable_masks
from ranking_det.user_errors import UserError, nearest

logger = logging.getLogger(__name__)

SECTIONS = ("categories", "images", "annotations")
CLOCK_TICK = 0.05
"""Seconds after a change of a file during which another change may have the same time stamp."""

IGNORED = "object to ignore, treated as a crowd"
"""The kind of the notes on annotations with ``ignore`` 1."""

MAX_HEADERS = 10_000
"""Default maximum number of image headers to open; opening more can take minutes."""


@dataclass(frozen=True)
class ReadOptions:
    """Options of the reader. Checked contents are cached by them.

    Attributes:
        strict: refuse any object that would be left out or corrected.
        max_faults: maximum number of objects of a file that may be left out or cut to under half of
            their box, >= 0; None for 10, or 5% of the objects if that is more.
        crowds_are_objects: treat annotations with ``iscrowd`` 1 as objects.
        allow_outside: accept images outside the image folder.
        masks: check the masks. Without this, masks must not be used.
        max_headers: maximum number of image headers to open, evenly spread, to compare the sizes;
            0 to open none.
        max_decoded: maximum number of images to decode, evenly spread; 0 to decode none.
        image_root: the folder of the images; None if they are not needed.
        lvis: whether the file must have LVIS's fields; None to detect them.
        needs_objects: refuse a file without objects, as for training.
        needs_sizes: refuse images without ``width`` and ``height``.
    """

    strict: bool = False
    max_faults: int | None = None
    crowds_are_objects: bool = False
    allow_outside: bool = False
    masks: bool = False
    max_headers: int = MAX_HEADERS
    max_decoded: float = 0
    image_root: str | None = None
    lvis: bool | None = None
    needs_objects: bool = False
    needs_sizes: bool = True

    def __post_init__(self) -> None:
        """Check ``max_faults``.

        Raises:
            UserError: ``max_faults`` is negative.
        """
        if self.max_faults is not None and self.max_faults < 0:
            raise UserError(f"--max-faults: expected at least 0, got {self.max_faults}")

    def without_images(self) -> ReadOptions:
        """Return these options for a file whose images have been checked."""
        return replace(self, max_headers=0, max_decoded=0)

    def are_met_by(self, available: ReadOptions) -> bool:
        """Return whether annotations that were read with other options also satisfy these.

        Args:
            available: the options that the annotations were read with.
        """
        needs: dict[str, Any] = {"image_root": None, "lvis": None}
        needs |= {"needs_objects": False, "needs_sizes": True}
        expected, actual = (
            replace(options.without_images(), **needs) for options in (self, available)
        )
        return (
            expected == actual
            and self.image_root in (None, available.image_root)
            and self.max_headers <= available.max_headers
            and self.max_decoded <= available.max_decoded
            and self.lvis in (None, available.lvis)
            and self.needs_objects <= available.needs_objects
            and self.needs_sizes <= available.needs_sizes
        )


@dataclass(frozen=True)
class Annotations:
    """The checked content of an annotation file; read-only, because all readers share it.

    Attributes:
        path: the file.
        lvis: whether it has LVIS's fields.
        annotated: whether it has any annotations; files of test sets may have none.
        masks: whether masks were checked. If not, ``segmentation`` must not be used.
        categories: the classes, sorted by id, each with ``id`` and ``name``.
        root_ids: ids of the categories in the file that are not classes.
        images: the images, each with ``id``.
        annotations: the objects and crowds, each with ``image_id``, ``category_id`` and ``bbox``:
            four finite numbers, a box with a size, at most a pixel outside its image.
        faults: the entries that were left out, cut, corrected or noted.
        conversions: the number of values that were converted, by a description.
        image_files: the paths of ``images``, in the same order; empty without an image folder.
    """

    path: str
    lvis: bool
    annotated: bool
    masks: bool
    categories: list[Entry]
    root_ids: frozenset[Any]
    images: list[Entry]
    annotations: list[Entry]
    faults: Faults
    conversions: Counter[str]
    image_files: list[str]

    @property
    def content(self) -> dict[str, Any]:
        """The three sections in the form of the JSON."""
        return {section: getattr(self, section) for section in SECTIONS}


@dataclass(frozen=True)
class AnnotationSummary:
    """Summary of a checked annotation file: its format, classes, counts and faults.

    Attributes:
        json_file: the file.
        format: "lvis" if images have ``neg_category_ids`` or ``not_exhaustive_category_ids``, which
            only LVIS has; else "coco".
        category_ids: the ids of the categories, sorted; these are the classes, in their order.
        class_names: the names of the categories, in the same order.
        image_counts: LVIS's ``image_count`` of the categories, in the same order; empty if the file
            has none.
        num_images: number of images.
        num_empty_images: number of images without an object. Training skips them.
        num_objects: number of annotations except crowds.
        num_crowds: number of crowds, which are not learned.
        num_masks: number of objects with a mask; 0 if masks were not checked.
        annotated: whether the file has any annotations.
        notes: what was converted, left out, cut, corrected and noted, a line for each kind.
        faults: the entries that were left out, cut, corrected or noted, with their place.
        options: the options of the reader.
    """

    json_file: str
    format: str
    category_ids: tuple[int | str, ...]
    class_names: tuple[str, ...]
    image_counts: tuple[int, ...]
    num_images: int
    num_empty_images: int
    num_objects: int
    num_crowds: int
    num_masks: int
    annotated: bool
    notes: tuple[str, ...]
    faults: tuple[Fault, ...]
    options: ReadOptions


def summarize(annotations: Annotations, options: ReadOptions) -> AnnotationSummary:
    """Summarize a checked annotation file.

    Args:
        annotations: the content.
        options: the options that it was read with.

    Returns:
        The summary.
    """
    categories, objects = annotations.categories, Counter[Any]()
    num_masks = 0
    for annotation in annotations.annotations:
        if not annotation.get("iscrowd"):
            objects[annotation["image_id"]] += 1
            num_masks += options.masks and bool(annotation.get("segmentation"))
    converted = [
        f"converted: {description}: {count}"
        for description, count in sorted(annotations.conversions.items())
    ]
    counts = [category.get("image_count") for category in categories if annotations.lvis]
    return AnnotationSummary(
        json_file=annotations.path,
        format="lvis" if annotations.lvis else "coco",
        category_ids=tuple(category["id"] for category in categories),
        class_names=tuple(category["name"] for category in categories),
        image_counts=() if None in counts else tuple(counts),
        num_images=len(annotations.images),
        num_empty_images=len(annotations.images) - len(objects),
        num_objects=objects.total(),
        num_crowds=len(annotations.annotations) - objects.total(),
        num_masks=num_masks,
        annotated=annotations.annotated,
        notes=(*converted, *annotations.faults.summary()),
        faults=tuple(annotations.faults.rows),
        options=options,
    )


@dataclass
class _OpenFile:
    """A parsed file.

    Attributes:
        content: the object in the file, unchanged.
        stamp: numbers that change when the file changes.
        name: the name of the file in messages.
        checked: the checked content by the options of the reader.
    """

    content: dict[str, Any]
    stamp: tuple[int, ...] | None
    name: str
    checked: dict[ReadOptions, Annotations] = field(default_factory=dict)


_OPEN_FILES: dict[str, _OpenFile] = {}


def _open(path: str) -> _OpenFile:
    stamp, key = _stamp(path), os.path.abspath(path)
    file = _OPEN_FILES.get(key)
    if file is None or file.stamp != stamp:
        _OPEN_FILES.pop(key, None)
        content = load_json(path, "annotation file")
        if not isinstance(content, dict):
            expected = f"expected an object with {', '.join(SECTIONS)}"
            raise UserError(f"{path}: {expected}, got {type(content).__name__}")
        file = _OpenFile(content, stamp, path)
        if stamp is not None and abs(time.time() - stamp[0] / 1e9) > CLOCK_TICK:
            _OPEN_FILES[key] = file
    return file


def cache_annotations(path: str, content: dict[str, Any], name: str) -> None:
    """Keep the content of an annotation file in memory, before or after the file is written.

    Args:
        path: the file. Reading it gives this content until the file changes.
        content: its content; read-only.
        name: its name in messages, such as the data that it was converted from.
    """
    key = os.path.abspath(path)
    file = _OPEN_FILES.get(key)
    checked = file.checked if file is not None and file.content is content else {}
    _OPEN_FILES[key] = _OpenFile(content, _stamp(path), name, checked)


def release_annotations(*paths: str) -> None:
    """Free the memory of parsed annotation files. Reading one again parses it again.

    COCO's training file takes gigabytes, which are not needed after its conversion to records.

    Args:
        paths: the files.
    """
    for path in paths:
        _OPEN_FILES.pop(os.path.abspath(path), None)


def _stamp(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def load_json(path: str, noun: str) -> Any:
    """Load a JSON file, with or without a byte order mark.

    Args:
        path: the file.
        noun: the name of its kind in messages, such as "annotation file".

    Returns:
        The content.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe could make the command wait
        kind = "a folder" if os.path.isdir(path) else "a pipe or device"
        raise UserError(f"the {noun} {path!r} is {kind}, not a file")
    try:
        return _parse(Path(path).read_bytes())
    except FileNotFoundError:
        text = f"the {noun} {path!r} does not exist (current folder: {Path.cwd()})"
        raise UserError(text) from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{path}: invalid JSON: {error.msg} at {place}") from None
    except UnicodeDecodeError as error:
        packed = error.object.startswith(b"\x1f\x8b")
        reason = "it is compressed by gzip; unpack it" if packed else "it is not text in UTF-8"
        raise UserError(f"{path}: cannot be read as JSON: {reason}") from None
    # A number of thousands of digits is a plain ValueError.
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None


def _parse(content: bytes) -> Any:
    collecting = gc.isenabled()
    # This parses three times as fast: the collector would visit millions of new lists repeatedly.
    gc.disable()
    try:
        return json.loads(content.decode("utf-8-sig"))
    finally:
        if collecting:
            gc.enable()


def read_annotations(
    path: str | Path,
    image_root: str | Path | None = None,
    options: ReadOptions | None = None,
    **changes: Any,
) -> Annotations:
    """Read and check an annotation file in COCO's or LVIS's format, and find its images.

    Args:
        path: the file.
        image_root: the folder of the images; None if they are not needed.
        options: the options of the reader.
        **changes: options that replace those of ``options``, such as ``needs_objects=True``.

    Returns:
        The checked content. Reading an unchanged file again costs nothing.

    Raises:
        UserError: the file is missing, is in another format, or has faults that are refused. The
            message counts the faults and shows the first ten, a line each.
    """
    changes["image_root"] = None if image_root is None else str(image_root)
    options, path = replace(options or ReadOptions(), **changes), str(path)
    file = _open(path)
    for earlier, checked in file.checked.items():
        if options.are_met_by(earlier):
            return checked
    checked = replace(check_content(file.content, file.name, options), path=path)
    file.checked[replace(options, lvis=checked.lvis)] = checked
    return checked


def check_content(
    content: Mapping[str, Any], data_name: str, options: ReadOptions | None = None
) -> Annotations:
    """Check the content of an annotation file; see :func:`read_annotations`.

    Args:
        content: the parsed file; it is not changed.
        data_name: its name in messages, such as its path.
        options: the options of the reader.

    Returns:
        The checked content.

    Raises:
        UserError: the content has faults that are refused.
    """
    options = options or ReadOptions()
    sections = sections_of(content, data_name, annotations=options.needs_objects)
    lvis = is_lvis(sections["images"]) if options.lvis is None else options.lvis
    faults, conversions = Faults(data_name), Counter[str]()
    read = {}
    for name, raw in sections.items():
        fields = FIELDS[name] | (LVIS_FIELDS.get(name, {}) if lvis else {})
        if name == "images" and not options.needs_sizes:
            fields |= {key: fields[key]._replace(required=False) for key in ("width", "height")}
        if name == "categories" and not options.needs_objects and lvis:
            # Only Detectron2's federated loss needs the count.
            fields |= {"image_count": fields["image_count"]._replace(required=False)}
        read[name] = read_section(name, raw, fields, faults, conversions)
    faults.check()
    images, objects = read["images"], read["annotations"]
    used = set(objects.columns["category_id"])
    categories = rules.drop_unused_categories(read["categories"].entries, used, faults)
    class_ids = {category["id"] for category in categories}
    rules.check_images(images.entries, faults)
    if lvis:
        rules.check_lvis_lists(images.entries, class_ids, faults)
    rules.check_references(objects, set(images.columns["id"]), class_ids, "the file", faults)
    image_files: list[str] = []
    if options.image_root is not None:
        names = ("allow_outside", "max_headers", "max_decoded", "max_faults", "strict")
        settings = {name: vars(options)[name] for name in names}
        image_files = find_images(images.entries, options.image_root, faults, **settings)
    faults.check()
    annotations = _check_objects(objects, images, options, faults, conversions)
    if options.needs_objects and all(annotation.get("iscrowd") for annotation in annotations):
        if not annotations:
            text = "all annotations are faulty and left out, so there is nothing to train on"
            raise UserError(f"{data_name}: {text}")
        raise UserError(
            f"{data_name}: all annotations are crowds, so there is nothing to train on "
            "(--crowds-are-objects treats crowds as objects)"
        )
    return Annotations(
        path=data_name,
        lvis=lvis,
        annotated=bool(objects.entries),
        masks=options.masks,
        categories=sorted(categories, key=lambda category: rules.id_order(category["id"])),
        root_ids=frozenset(read["categories"].columns["id"]) - class_ids,
        images=images.entries,
        annotations=annotations,
        faults=faults,
        conversions=conversions,
        image_files=image_files,
    )


def sections_of(
    content: Mapping[str, Any], data_name: str, *, annotations: bool = False
) -> dict[str, list[Any]]:
    """Return the three lists of an annotation file.

    Args:
        content: the parsed file.
        data_name: its name in messages.
        annotations: whether there must be annotations; test sets have none.

    Raises:
        UserError: a list is missing or empty, or is not a list.
    """
    sections = {}
    for section in SECTIONS:
        entries = content.get(section)
        optional = section == "annotations" and not annotations
        if entries is None and optional:
            entries = []
        if entries is None:
            raise UserError(f"{data_name}: has no {section!r}, which COCO and LVIS files have")
        if not isinstance(entries, list):
            kind = type(entries).__name__
            raise UserError(f"{data_name}: {section!r}: expected a list, got {kind}")
        if not entries and not optional:
            raise UserError(f"{data_name}: {section!r} is empty")
        sections[section] = entries
    return sections


def _check_objects(
    objects: Section,
    images: Section,
    options: ReadOptions,
    faults: Faults,
    conversions: Counter[str],
) -> list[Entry]:
    """Return the annotations that can be used, with corrected crowds, areas, boxes and masks.

    Raises:
        UserError: too many cannot be used, or all boxes are in other coordinates.
    """
    annotations = _correct_flags(objects, options, faults)
    boxes = read_boxes("annotations", annotations, faults, conversions)
    faults.check()
    places = _indices(objects.columns["image_id"], images.columns["id"])
    sides = [images.columns[key] for key in ("width", "height")]
    sizes = np.array(sides, dtype=np.float64).reshape(2, -1).T[places]
    allowed = options.max_faults
    pattern = rules.find_pattern(boxes.xywh, sizes, places)
    if pattern is not None and (allowed is None or pattern.count > allowed):
        raise UserError(
            f"{faults.file}: {pattern.count} of {len(annotations)} boxes {pattern.text} "
            f"(--max-faults {pattern.count} accepts them as they are)"
        )
    is_usable = rules.check_boxes(annotations, boxes, sizes, faults)
    if not options.strict:
        faults.check_limit((LEFT_OUT, CUT), len(annotations), "objects in total", allowed)
    for index, box in boxes.replaced.items():
        annotations[index] = {**annotations[index], "bbox": box}
    if options.masks:
        usable_sizes = image_sizes({"images": images.entries})
        annotations = keep_usable_masks(annotations, usable_sizes, faults)
    if options.strict:
        faults.check(LEFT_OUT, CUT, CORRECTED, hint="; --strict refuses this")
    if not is_usable.all():
        annotations = [annotations[index] for index in np.flatnonzero(is_usable).tolist()]
    return annotations


def _indices(values: Sequence[Any], unique_values: Sequence[Any]) -> np.ndarray:
    """Return the index of each value in a sequence without duplicates, as (n,) int64."""
    ids = np.array(unique_values)
    if ids.dtype == np.int64:  # three times as fast as a dict of 100,000 entries
        order = np.argsort(ids)
        return order[np.searchsorted(ids[order], np.array(values, dtype=np.int64))]
    index_of = {value: index for index, value in enumerate(unique_values)}
    return np.array([index_of[value] for value in values], dtype=np.int64)


def _correct_flags(objects: Section, options: ReadOptions, faults: Faults) -> list[Entry]:
    """Return the annotations with corrected ``iscrowd`` (from ``ignore``) and without bad areas."""
    annotations, columns = list(objects.entries), objects.columns
    changes: dict[int, Entry] = defaultdict(dict)
    for index in np.flatnonzero(columns["ignore"]).tolist():
        # As in mmdetection, the object is not trained, and detecting it is not a false positive.
        faults.add(NOTED, IGNORED, "'ignore' is 1", "annotations", index, annotations[index])
        changes[index]["iscrowd"] = 1
    if options.crowds_are_objects:
        for index in np.flatnonzero(columns["iscrowd"]).tolist():
            if "iscrowd" not in changes[index]:
                kind, text = "crowd, treated as an object", "'iscrowd' is 1"
                faults.add(NOTED, kind, text, "annotations", index, annotations[index])
                changes[index]["iscrowd"] = 0
    areas = as_floats(columns["area"])
    for index in np.flatnonzero(~((areas >= 0) & np.isfinite(areas))).tolist():
        if columns["area"][index] is not None:
            changes[index]["area"] = None
    for index, change in changes.items():
        merged = annotations[index] | change
        annotations[index] = {key: value for key, value in merged.items() if value is not None}
    return annotations


def match_classes(
    class_names: Sequence[str], summary: AnnotationSummary, class_source: str
) -> dict[Any, int]:
    """Match the categories of a file with the classes of a model by name.

    Args:
        class_names: the names of the classes.
        summary: the summary of the file. It may lack classes.
        class_source: the source of the classes for messages, such as the training file.

    Returns:
        The class, from 0, by category id of the file.

    Raises:
        UserError: the file has a category whose name is not a class.
    """
    class_of = {name: index for index, name in enumerate(class_names)}
    for identity, name in zip(summary.category_ids, summary.class_names, strict=True):
        if name not in class_of:
            place = f"{summary.json_file}: category {identity}"
            text = f"{place}: expected a class of {class_source}, got {name!r}"
            hint = "; rename the class in the annotations, or leave its objects out"
            raise UserError(f"{text}{nearest(name, class_names)}{hint}")
    pairs = zip(summary.category_ids, summary.class_names, strict=True)
    return {identity: class_of[name] for identity, name in pairs}


def is_lvis(images: Sequence[Any]) -> bool:
    """Return whether the images of a file have LVIS's fields.

    Args:
        images: the entries in the file.
    """
    keys = set(rules.LVIS_LISTS)
    return any(isinstance(image, dict) and keys & image.keys() for image in images)


def image_sizes(content: Mapping[str, Any]) -> dict[Any, Size]:
    """Return the sizes (width, height) in pixels by image id, for the images that have a size.

    Args:
        content: the content of the file.
    """
    return {
        image["id"]: (image["width"], image["height"])
        for image in content["images"]
        if "width" in image and "height" in image
    }
