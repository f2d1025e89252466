"""Checks of the categories, images and annotations of a COCO or LVIS file, entry by entry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ranking_det.data.faults import Fault, Faults, show
from ranking_det.data.geometry import (
    Size,
    box_faults,
    broken_masks,
    is_number,
    segmentation_faults,
)
from ranking_det.data.image_files import FileChecks

CATEGORY: dict[str, type] = {"id": int, "name": str}
LVIS_CATEGORY: dict[str, type] = CATEGORY | {"frequency": str, "image_count": int}
IMAGE: dict[str, type] = {"id": int, "width": int, "height": int}
LVIS_LISTS: dict[str, type] = {"neg_category_ids": list, "not_exhaustive_category_ids": list}
ANNOTATION: dict[str, type] = {"id": int, "image_id": int, "category_id": int, "bbox": list}
_NAMES = {int: "an integer", str: "a string", list: "a list", dict: "an object"}
# From here on floats, which evaluation libraries keep ids as, are not exact.
MAX_ID = 2**53
MAX_SIDE = 65535  # JPEG's; and the libraries count pixels in 32 bits


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
            found += name_faults(entry)
            found += frequency_faults(entry) if lvis else ()
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
            if not list(size_faults(entry)):
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
    for index, fault in broken_masks(entries, sizes):
        faults.add("annotations", index, entries[index], [fault])
    return objects


def check_references(
    entries: list[Any], images: Collection[int], names: Collection[int], faults: Faults
) -> None:
    """Add the annotations that lack a key, or are of an unknown image or category."""
    for index, entry in enumerate(entries):
        found = list(type_faults(entry, ANNOTATION)) or list(reference_faults(entry, images, names))
        if found:
            faults.add("annotations", index, entry, found)


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
    yield from size_faults(image)
    yield from list_faults(image, names)
    given = [image.get(key) for key in ("file_name", "coco_url")]
    if given == [None, None]:
        yield "missing key", "has no 'file_name' (nor LVIS's 'coco_url')"
    for key, value in zip(("file_name", "coco_url"), given, strict=True):
        if value is not None and (type(value) is not str or not value):
            yield "wrong type", f"{key!r} must be a string that is not empty, got {show(value)}"


def _annotation_faults(
    annotation: dict[str, Any], sizes: dict[int, Size | None], names: dict[int, str]
) -> Iterator[Fault]:
    yield from reference_faults(annotation, sizes, names)
    size = sizes.get(annotation["image_id"])
    yield from box_faults(annotation["bbox"], annotation["image_id"], size)
    if annotation.get("segmentation"):
        yield from segmentation_faults(annotation["segmentation"], size)
    yield from value_faults(annotation)


def reference_faults(
    entry: Mapping[str, Any],
    images: Collection[int],
    categories: Collection[int],
    place: str = "the file",
) -> Iterator[Fault]:
    """What an annotation or a result refers to and ``place`` has not."""
    if entry["image_id"] not in images:
        yield "unknown image", f"'image_id' is {entry['image_id']}, which is no image of {place}"
    if entry["category_id"] not in categories:
        text = f"'category_id' is {entry['category_id']}, which is no category of {place}"
        yield "unknown category", text


def value_faults(annotation: Mapping[str, Any]) -> Iterator[Fault]:
    """What is wrong with the fields of an annotation that may be missing."""
    if annotation.get("iscrowd", 0) not in (0, 1):
        yield "wrong value", f"'iscrowd' must be 0 or 1, got {show(annotation['iscrowd'])}"
    if annotation.get("ignore"):
        # COCO's evaluation overwrites it, and Detectron2's loader refuses it.
        yield "wrong value", "'ignore' has no effect in COCO's evaluation; use 'iscrowd': 1"
    area = annotation.get("area", 0)
    if not is_number(area) or area < 0:
        yield "wrong value", f"'area' must be a finite number of at least 0, got {show(area)}"


def size_faults(image: Mapping[str, Any]) -> Iterator[Fault]:
    """What no image can have for its width or height."""
    for key in ("width", "height"):
        if not 1 <= image[key] <= MAX_SIDE:
            text = f"{key!r} must be from 1 to {MAX_SIDE}, got {show(image[key])}"
            yield "image size", text


def list_faults(image: Mapping[str, Any], categories: Collection[int]) -> Iterator[Fault]:
    """What is in LVIS's lists of an image and is no category."""
    for key in LVIS_LISTS:
        for identity in image.get(key) or ():
            if type(identity) is not int or identity not in categories:
                yield "unknown category", f"{key!r} holds {show(identity)}, which is no category"


def name_faults(category: Mapping[str, Any]) -> Iterator[Fault]:
    """What keeps the name of a category from being written to a file."""
    try:
        category["name"].encode()
    except UnicodeEncodeError:  # JSON may hold half of a pair of UTF-16
        yield "broken name", f"the name {show(category['name'])} holds what is no character"


def frequency_faults(category: Mapping[str, Any]) -> Iterator[Fault]:
    """What is wrong with LVIS's frequency of a category."""
    if category["frequency"] not in ("r", "c", "f"):
        text = f"'frequency' must be 'r', 'c' or 'f', got {show(category['frequency'])}"
        yield "wrong value", text
