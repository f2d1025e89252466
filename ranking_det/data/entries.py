"""Checks of the categories, images and annotations of a COCO or LVIS file, entry by entry."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ranking_det.data.faults import Fault, Faults, show
from ranking_det.data.image_files import FileChecks

# What boxes may exceed the image by, in pixels: converters that count pixels from 1, or take the
# last pixel's index for the edge, are off by one. In samples of COCO and LVIS no box exceeds it.
TOLERANCE = 1.0
FLAT = "box without area"

CATEGORY: dict[str, type] = {"id": int, "name": str}
LVIS_CATEGORY: dict[str, type] = CATEGORY | {"frequency": str, "image_count": int}
IMAGE: dict[str, type] = {"id": int, "width": int, "height": int}
LVIS_LISTS: dict[str, type] = {"neg_category_ids": list, "not_exhaustive_category_ids": list}
ANNOTATION: dict[str, type] = {"id": int, "image_id": int, "category_id": int, "bbox": list}
_NAMES = {int: "an integer", str: "a string", list: "a list", dict: "an object"}
_NUMBERS = (int, float)

Size = tuple[int, int]  # width, height


def check_categories(entries: list[Any], lvis: bool, faults: Faults) -> dict[int, str]:
    """The names of the categories by id, in the order of ids."""
    names: dict[int, str] = {}
    taken: dict[str, int] = {}
    expected = LVIS_CATEGORY if lvis else CATEGORY
    for index, entry in enumerate(entries):
        found = list(type_faults(entry, expected))
        if not found:
            identity, name = entry["id"], entry["name"]
            if identity in names:
                found.append(("duplicate id", f"another category has the id {identity}"))
            if name in taken:
                text = f"the name {name!r} is also that of category {taken[name]}"
                found.append(("duplicate name", text))
            if not name.strip():
                found.append(("empty name", "the name is empty"))
            if lvis and entry["frequency"] not in ("r", "c", "f"):
                text = f"'frequency' must be 'r', 'c' or 'f', got {show(entry['frequency'])}"
                found.append(("wrong value", text))
            taken.setdefault(name, identity)
        _remember(names, entry, entry["name"] if not found else "")
        faults.add("categories", index, entry, found)
    return dict(sorted(names.items()))


def check_images(
    entries: list[Any],
    lvis: bool,
    names: dict[int, str],
    files: FileChecks | None,
    faults: Faults,
) -> dict[int, Size | None]:
    """The (width, height) of the images by id; None where an image has no valid size."""
    sizes: dict[int, Size | None] = {}
    expected = IMAGE | LVIS_LISTS if lvis else IMAGE
    for index, entry in enumerate(entries):
        found = list(type_faults(entry, expected))
        size = None
        if not found:
            found += _image_faults(entry, sizes, names)
            if min(entry["width"], entry["height"]) > 0:
                size = (entry["width"], entry["height"])
        if not found and files is not None:
            found += files.faults(index, entry)
        _remember(sizes, entry, size)
        faults.add("images", index, entry, found)
    return sizes


def check_annotations(
    entries: list[Any], sizes: dict[int, Size | None], names: dict[int, str], faults: Faults
) -> Counter[int]:
    """The number of objects that are no crowd by image id."""
    seen: set[int] = set()
    objects: Counter[int] = Counter()
    for index, entry in enumerate(entries):
        found = list(type_faults(entry, ANNOTATION))
        if not found:
            if entry["id"] in seen:
                text = f"another annotation has the id {entry['id']}"
                found.append(("duplicate id", text))
            seen.add(entry["id"])
            found += _annotation_faults(entry, sizes, names)
            if not entry.get("iscrowd"):
                objects[entry["image_id"]] += 1
        if found:
            faults.add("annotations", index, entry, found)
    return objects


def _remember(known: dict[int, Any], entry: Any, value: Any) -> None:
    """Note an id even of a faulty entry, so that nothing that refers to it is a fault too."""
    if isinstance(entry, dict) and type(entry.get("id")) is int:
        known.setdefault(entry["id"], value)


def type_faults(entry: Any, expected: dict[str, type]) -> Iterator[Fault]:
    """What keeps an entry from being an object with these keys, of exactly these types."""
    if type(entry) is not dict:
        yield "wrong type", f"must be an object, got {show(entry)}"
        return
    for key, kind in expected.items():
        if key not in entry:
            yield "missing key", f"has no {key!r}"
        elif type(entry[key]) is not kind:  # True and 640.0 are no integers here
            yield "wrong type", f"{key!r} must be {_NAMES[kind]}, got {show(entry[key])}"


def _image_faults(
    image: dict[str, Any], sizes: dict[int, Size | None], names: dict[int, str]
) -> Iterator[Fault]:
    if image["id"] in sizes:
        yield "duplicate id", f"another image has the id {image['id']}"
    for key in ("width", "height"):
        if image[key] <= 0:
            yield "image size", f"{key!r} must be positive, got {image[key]}"
    for key in LVIS_LISTS:
        for identity in image.get(key) or ():
            if type(identity) is not int or identity not in names:
                yield "unknown category", f"{key!r} holds {show(identity)}, which is no category"
    given = [image.get(key) for key in ("file_name", "coco_url")]
    if given == [None, None]:
        yield "missing key", "has no 'file_name' (nor LVIS's 'coco_url')"
    for key, value in zip(("file_name", "coco_url"), given, strict=True):
        if value is not None and (type(value) is not str or not value):
            yield "wrong type", f"{key!r} must be a string that is not empty, got {show(value)}"


def _annotation_faults(
    annotation: dict[str, Any], sizes: dict[int, Size | None], names: dict[int, str]
) -> Iterator[Fault]:
    image_id, category_id = annotation["image_id"], annotation["category_id"]
    if image_id not in sizes:
        yield "unknown image", f"'image_id' is {image_id}, which is no image of the file"
    if category_id not in names:
        yield "unknown category", f"'category_id' is {category_id}, which is no category"
    size = sizes.get(image_id)
    yield from _box_faults(annotation["bbox"], image_id, size)
    if annotation.get("segmentation"):
        yield from _segmentation_faults(annotation["segmentation"], size)
    if annotation.get("iscrowd", 0) not in (0, 1):
        yield "wrong value", f"'iscrowd' must be 0 or 1, got {show(annotation['iscrowd'])}"
    if annotation.get("ignore"):
        # COCO's evaluation overwrites it, and Detectron2's loader refuses it.
        yield "wrong value", "'ignore' has no effect in COCO's evaluation; use 'iscrowd': 1"
    area = annotation.get("area", 0)
    if type(area) not in _NUMBERS or not 0 <= area < math.inf:
        yield "wrong value", f"'area' must be a finite number of at least 0, got {show(area)}"


def _box_faults(box: list[Any], image_id: int, size: Size | None) -> Iterator[Fault]:
    if len(box) != 4 or any(type(value) not in _NUMBERS for value in box):
        yield "malformed box", f"'bbox' must be 4 numbers x, y, width, height, got {show(box)}"
    elif not _finite(box):
        yield "malformed box", f"'bbox' holds NaN or infinity: {box}"
    elif box[2] <= 0 or box[3] <= 0:
        kind = FLAT if min(box[2:]) == 0 < max(box[2:]) else "box of no positive size"
        yield kind, f"width and height of 'bbox' must be positive, got {box}"
    elif size is not None:
        x, y, width, height = box
        over = (-x, -y, x + width - size[0], y + height - size[1])
        if max(over) > TOLERANCE:
            corners = x < width <= size[0] and y < height <= size[1] and min(x, y) >= 0
            hint = "; is it x1, y1, x2, y2 instead of x, y, width, height?" if corners else ""
            yield (
                "box outside the image",
                f"'bbox' {box} is outside image {image_id} of {size[0]} x {size[1]} by "
                f"{max(over):g} pixels{hint}",
            )


def _segmentation_faults(segmentation: Any, size: Size | None) -> Iterator[Fault]:
    if type(segmentation) is dict:
        yield from _rle_faults(segmentation, size)
        return
    if type(segmentation) is not list or any(type(polygon) is not list for polygon in segmentation):
        text = "must be a list of polygons, which are lists of numbers, or an RLE object"
        yield "segmentation", f"'segmentation' {text}, got {show(segmentation)}"
        return
    for index, polygon in enumerate(segmentation):
        if len(polygon) < 6 or len(polygon) % 2:
            text = f"has {len(polygon)} numbers; a polygon has x and y of at least 3 points"
            yield "segmentation", f"'segmentation'[{index}] {text}"
        elif not _finite(polygon):
            yield "segmentation", f"'segmentation'[{index}] must hold finite numbers only"


def _rle_faults(rle: dict[str, Any], size: Size | None) -> Iterator[Fault]:
    counts = rle.get("counts")
    if size is not None and rle.get("size") != [size[1], size[0]]:
        text = f"must be the image's [height, width] {[size[1], size[0]]}"
        yield "segmentation", f"the RLE's 'size' {text}, got {show(rle.get('size'))}"
    elif type(counts) is list:
        right = all(type(count) is int and count >= 0 for count in counts)
        if not right or (size is not None and sum(counts) != size[0] * size[1]):
            yield "segmentation", "the RLE's 'counts' must be integers that sum to the image's area"
    elif type(counts) is not str or not counts:
        yield "segmentation", f"the RLE's 'counts' must be a list or a string, got {show(counts)}"


def _finite(numbers: list[Any]) -> bool:
    try:
        return math.isfinite(sum(numbers))
    except (TypeError, OverflowError):
        return False
