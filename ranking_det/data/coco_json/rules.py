"""Rules for the entries of COCO and LVIS JSON: categories, images, annotations and results.

All rules have the same arguments, an entry and what is known about its file, and return its faults;
see :data:`Rule`. :mod:`ranking_det.data.coco_json.reader` says which rules a profile applies.

The formats are those of https://cocodataset.org/#format-data, https://cocodataset.org/#format-results
and https://www.lvisdataset.org/dataset.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ranking_det.data.coco_json.compressed_masks import is_whole
from ranking_det.data.coco_json.image_files import ImageFinder, read_header
from ranking_det.user_errors import UserError, show

SHOWN = 10
# Evaluation libraries keep ids as floats, which are exact only below this.
MAX_ID = 2**53
MAX_SIDE = 65535  # JPEG's limit; the libraries also count pixels in 32 bits
# At most this many images are opened: opening more could take minutes on a slow disk.
MAX_OPENED = 10_000
# Pixels by which a box may exceed its image: converters that count pixels from 1, or take the last
# pixel's index for the edge, are off by one. No box exceeds its image in samples of COCO and LVIS.
TOLERANCE = 1.0
FLAT = "box without area"
FORGIVEN = {FLAT: 1e-5}
"""The share of the objects that may have a fault of this kind; a warning then counts them.

COCO's own train2017 has two boxes of height 0 among 860,001.
"""

LVIS_LISTS: dict[str, type] = {"neg_category_ids": list, "not_exhaustive_category_ids": list}
NUMBERS = (int, float)
_TYPE_NAMES = {int: "an integer", str: "a string", list: "a list", dict: "an object"}
_LISTS = {"bbox": "result", "segm": "result"}
_NOUNS = {"categories": "category", "images": "image", "annotations": "annotation"}

Entry = dict[str, Any]
Size = tuple[int, int]  # width, height


class Fault(NamedTuple):
    """A fault of an entry.

    Attributes:
        kind: the kind by which faults are counted, and forgiven by :data:`FORGIVEN`.
        text: the message, with the value.
    """

    kind: str
    text: str


class Faults:
    """Count the faults of one file by kind and keep the first ten messages.

    Args:
        where: the name of the file in messages.
        first_only: whether to raise at the first fault instead.
    """

    def __init__(self, where: str, *, first_only: bool = False) -> None:
        self.where = where
        self.first_only = first_only
        self.counts: Counter[str] = Counter()
        self.lines: list[str] = []

    def add(self, section: str, index: int, entry: Any, faults: Iterable[Fault]) -> None:
        """Count the faults of the entry ``section[index]`` of the file.

        Args:
            section: the section of the entry, or "bbox" or "segm" for a result.
            index: the position of the entry in its list, from 0.
            entry: the entry, of any type.
            faults: its faults.

        Raises:
            UserError: there is a fault, and ``first_only`` is set.
        """
        for kind, text in faults:
            self.counts[kind] += 1
            if len(self.lines) < SHOWN:
                place = f"{_LISTS.get(section, section)}[{index}]"
                if isinstance(entry, dict) and "id" in entry and not self.first_only:
                    place = f"{_NOUNS[section]} {show(entry['id'])} ({place})"
                self.lines.append(f"{self.where}: {place}: {text}")
            if self.first_only:
                raise UserError(self.lines[0])

    def check(self) -> None:
        """Raise one error for all faults.

        Raises:
            UserError: there are faults. The message counts them and shows the first ten.
        """
        total = self.counts.total()
        if total == 1:
            raise UserError(self.lines[0])
        if total:
            kinds = ", ".join(f"{kind} {count}" for kind, count in self.counts.most_common())
            head = f"{self.where}: {total} faults ({kinds})"
            more = f"; the first {SHOWN}:" if total > SHOWN else ":"
            raise UserError("\n  ".join([head + more, *self.lines]))


@dataclass
class Context:
    """What rules know about the file of an entry, in addition to the entry.

    Attributes:
        lvis: whether entries must have LVIS's fields.
        place: where the ids of images and categories come from, in the words of a message.
        masks: whether to check segmentations.
        categories: the names of the categories by id; empty for a faulty category.
        sizes: the (width, height) of the images by id, in pixels; None for an image without a
            valid size.
        finder: finds the image files; None to skip them.
        opened: every ``opened``-th image file is opened; 0 opens none.
        section: the section of the entry, or "bbox" or "segm" for a result.
        ids: the ids of the section so far.
        category_of: the ids of the categories by name.
    """

    lvis: bool
    place: str = "the file"
    masks: bool = True
    categories: dict[int, str] = field(default_factory=dict)
    sizes: dict[int, Size | None] = field(default_factory=dict)
    finder: ImageFinder | None = None
    opened: int = 0
    section: str = ""
    ids: set[int] = field(default_factory=set)
    category_of: dict[str, int] = field(default_factory=dict)


Rule = Callable[[Entry, Context], Iterable[Fault]]
"""A rule for entries of one section.

Args:
    entry: a category, an image, an annotation or a result, whose required fields have the right
        types.
    context: what is known about its file. Some rules add to it.

Returns:
    The faults of the entry, none if it is right.
"""


def type_faults(entry: Any, fields: Mapping[str, type]) -> list[Fault]:
    """Check that an entry is an object with these keys, of exactly these types.

    Args:
        entry: the entry, of any type.
        fields: the types by key.

    Returns:
        A fault for each key that is missing or has another type.
    """
    if type(entry) is not dict:
        return [Fault("wrong type", f"expected an object, got {show(entry)}")]
    return [
        Fault("wrong type", f"{key!r}: expected {_TYPE_NAMES[kind]}, got {show(entry[key])}")
        if key in entry
        else Fault("missing key", f"has no {key!r}")
        for key, kind in fields.items()
        if type(entry.get(key)) is not kind  # True and 640.0 are not integers here
    ]


def unique_id(entry: Entry, context: Context) -> Iterator[Fault]:
    """Check that no two entries of a section have the same id."""
    if entry["id"] in context.ids:
        text = f"another {_NOUNS[context.section]} has the id {entry['id']}"
        yield Fault("duplicate id", text)
    context.ids.add(entry["id"])


def exact_id(entry: Entry, context: Context) -> Iterator[Fault]:
    """Check that an id is exact as a float, because evaluation libraries keep ids as floats."""
    if abs(entry["id"]) >= MAX_ID:
        yield Fault("wrong value", f"'id': expected below 2**53, got {show(entry['id'])}")


def distinct_name(category: Entry, context: Context) -> Iterator[Fault]:
    """Check that the name of a category is unique and not only white space."""
    name = category["name"]
    if not name.strip():
        yield Fault("empty name", f"'name': expected more than white space, got {show(name)}")
    if name in context.category_of:
        text = f"category {context.category_of[name]} has the same name, {name!r}"
        yield Fault("duplicate name", text)
    context.category_of.setdefault(name, category["id"])


def encodable_name(category: Entry, context: Context) -> Iterator[Fault]:
    """Check that the name of a category can be written as UTF-8.

    JSON may hold one half of a UTF-16 surrogate pair, which cannot.
    """
    try:
        category["name"].encode()
    except UnicodeEncodeError:
        text = f"'name': expected characters that UTF-8 can encode, got {show(category['name'])}"
        yield Fault("broken name", text)


def frequency(category: Entry, context: Context) -> Iterator[Fault]:
    """Check that LVIS's frequency of a category is r(are), c(ommon) or f(requent)."""
    if context.lvis and category["frequency"] not in ("r", "c", "f"):
        text = f"'frequency': expected 'r', 'c' or 'f', got {show(category['frequency'])}"
        yield Fault("wrong value", text)


def sides(image: Entry, context: Context) -> Iterator[Fault]:
    """Check that the width and the height are possible for an image file."""
    for key in ("width", "height"):
        if not 1 <= image[key] <= MAX_SIDE:
            text = f"{key!r}: expected 1 to {MAX_SIDE}, got {show(image[key])}"
            yield Fault("image size", text)


def federated_lists(image: Entry, context: Context) -> Iterator[Fault]:
    """Check that LVIS's ``neg_`` and ``not_exhaustive_category_ids`` hold ids of categories."""
    for key in LVIS_LISTS:
        for identity in image.get(key) or ():
            if type(identity) is not int or identity not in context.categories:
                text = f"{key!r}: expected ids of categories, got {show(identity)}"
                yield Fault("unknown category", text)


def evaluated_lists(image: Entry, context: Context) -> Iterable[Fault]:
    """Check LVIS's lists if LVIS's rules evaluate; COCO's rules do not use them."""
    return federated_lists(image, context) if context.lvis else ()


def image_name(image: Entry, context: Context) -> Iterator[Fault]:
    """Check that an image has a file name or a URL."""
    names = {key: image.get(key) for key in ("file_name", "coco_url")}
    if all(name is None for name in names.values()):
        yield Fault("missing key", "has no 'file_name' (nor LVIS's 'coco_url')")
    for key, name in names.items():
        if name is not None and (type(name) is not str or not name):
            text = f"{key!r}: expected a string that is not empty, got {show(name)}"
            yield Fault("wrong type", text)


def image_file(image: Entry, index: int, context: Context) -> Iterator[Fault]:
    """Check that an image file exists, can be opened, and has the size that the JSON gives.

    Every file must exist. The headers of up to :data:`MAX_OPENED` files, evenly spread, are read.

    Args:
        image: an entry of ``images`` that passes all rules.
        index: its position in ``images``, from 0.
        context: the context of its file; its ``finder`` is None to check nothing.

    Yields:
        The faults.
    """
    if context.finder is None:
        return
    path = context.finder.find(image)
    if path is None:
        places = " or ".join(context.finder.places(image))
        yield Fault("missing image file", f"no image file at {places}")
    elif context.opened and index % context.opened == 0:
        yield from _header_faults(path, image)


def _header_faults(path: str, image: Entry) -> Iterator[Fault]:
    try:
        width, height, mode = read_header(path)
    except Exception as error:  # the readers of broken files raise many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        yield Fault("unreadable image", f"{path} cannot be read ({reason})")
        return
    if mode.startswith(("I", "F")):
        # Pillow would convert nearly all of its pixels to white.
        yield Fault("pixel format", f"{path} has pixels of more than 8 bits; save it with 8")
    if (width, height) != (image["width"], image["height"]):
        size = f"{image['width']} x {image['height']}"
        text = f"'width' x 'height': expected {width} x {height} as in {path}, got {size}"
        yield Fault("image size", text)


def references(entry: Entry, context: Context) -> Iterator[Fault]:
    """Check that the image and the category of an annotation or a result exist."""
    tables = ("image", "an image", context.sizes), ("category", "a category", context.categories)
    for noun, phrase, table in tables:
        identity = entry[f"{noun}_id"]
        if identity not in table:
            expected = f"expected the id of {phrase} in {context.place}"
            yield Fault(f"unknown {noun}", f"'{noun}_id': {expected}, got {identity}")


def box_numbers(entry: Entry, context: Context) -> list[Fault]:
    """Check that a box is four finite numbers x, y, width, height."""
    box = entry["bbox"]
    if len(box) != 4 or any(type(value) not in NUMBERS for value in box):
        text = f"'bbox': expected 4 numbers x, y, width, height, got {show(box)}"
        return [Fault("malformed box", text)]
    if not is_finite(box) and not all(is_finite([value]) for value in box):
        return [Fault("malformed box", f"'bbox': expected finite numbers, got {show(box)}")]
    return []


def box_not_negative(annotation: Entry, context: Context) -> list[Fault]:
    """Check that a box for evaluation has no negative side; it may lie outside or have no area."""
    faults = box_numbers(annotation, context)
    if not faults and min(annotation["bbox"][2:]) < 0:
        text = f"'bbox': expected width and height of at least 0, got {annotation['bbox']}"
        return [Fault("malformed box", text)]
    return faults


def box_inside(annotation: Entry, context: Context) -> list[Fault]:
    """Check that a box for training has an area and lies inside its image, up to a pixel."""
    faults = box_numbers(annotation, context)
    if faults:
        return faults
    box = x, y, width, height = annotation["bbox"]
    if width <= 0 or height <= 0:
        kind = FLAT if min(width, height) == 0 < max(width, height) else "box of no positive size"
        return [Fault(kind, f"'bbox': expected positive width and height, got {box}")]
    size = context.sizes.get(annotation["image_id"])
    if size is None:
        return []
    excess = max(-x, -y, x + width - size[0], y + height - size[1])
    if excess <= TOLERANCE:
        return []
    corners = x < width <= size[0] and y < height <= size[1] and min(x, y) >= 0
    hint = "; is it x1, y1, x2, y2 instead of x, y, width, height?" if corners else ""
    image = f"image {annotation['image_id']} of {size[0]} x {size[1]}"
    text = f"'bbox': expected a box inside {image}, got {box}, outside by {excess:g} pixels{hint}"
    return [Fault("box outside the image", text)]


def segmentation(annotation: Entry, context: Context) -> Iterator[Fault]:
    """Check that the mask of an annotation, if there is one, can be drawn."""
    if annotation.get("segmentation") and context.masks:
        yield from _mask_faults(annotation, context)


def result_segmentation(result: Entry, context: Context) -> Iterator[Fault]:
    """Check that the mask of a result is a compressed RLE."""
    mask = result["segmentation"]
    faults = list(_mask_faults(result, context))
    if not faults and type(mask["counts"]) is not str:
        text = f"the RLE's 'counts': expected a string (results are compressed), got {show(mask)}"
        faults = [Fault("segmentation", text)]
    yield from faults


def optional_values(annotation: Entry, context: Context) -> Iterator[Fault]:
    """Check that ``iscrowd``, ``ignore`` and ``area`` have values that evaluations accept."""
    if annotation.get("iscrowd", 0) not in (0, 1):
        yield Fault("wrong value", f"'iscrowd': expected 0 or 1, got {show(annotation['iscrowd'])}")
    if annotation.get("ignore"):
        # COCO's evaluation overwrites it, and Detectron2's loader refuses it.
        yield Fault("wrong value", "'ignore' has no effect in COCO's evaluation; use 'iscrowd': 1")
    area = annotation.get("area", 0)
    if type(area) not in NUMBERS or not is_finite([area]) or area < 0:
        text = f"'area': expected a finite number of at least 0, got {show(area)}"
        yield Fault("wrong value", text)


def score(result: Entry, context: Context) -> Iterator[Fault]:
    """Check that a result has a finite score."""
    if "score" not in result:
        yield Fault("missing key", "has no 'score'")
    elif type(result["score"]) not in NUMBERS or not is_finite([result["score"]]):
        text = f"'score': expected a finite number, got {show(result['score'])}"
        yield Fault("wrong value", text)


def _mask_faults(entry: Entry, context: Context) -> Iterator[Fault]:
    """Check that a mask, polygons or an RLE, can be drawn."""
    mask, size = entry["segmentation"], context.sizes.get(entry["image_id"])
    if type(mask) is dict:
        texts = _rle_faults(mask, size)
    elif type(mask) is list and all(type(polygon) is list for polygon in mask):
        texts = _polygon_faults(mask, size)
    else:
        text = "expected a list of polygons, which are lists of numbers, or an RLE object"
        texts = iter([f"'segmentation': {text}, got {show(mask)}"])
    for text in texts:
        yield Fault("segmentation", text)


def _polygon_faults(polygons: list[list[Any]], size: Size | None) -> Iterator[str]:
    for index, polygon in enumerate(polygons):
        if len(polygon) < 6 or len(polygon) % 2:
            text = f"expected x and y of at least 3 points, got {len(polygon)} numbers"
        elif not is_finite(polygon):
            text = f"expected finite numbers, got {show(polygon)}"
        elif size is not None and _is_far(polygon, size):
            image = f"image of {size[0]} x {size[1]}"
            text = f"expected points at most an image away from its {image}, got {show(polygon)}"
        else:
            continue
        yield f"'segmentation'[{index}]: {text}"


def _rle_faults(rle: dict[str, Any], size: Size | None) -> Iterator[str]:
    counts = rle.get("counts")
    area = None if size is None else size[0] * size[1]
    if size is not None and rle.get("size") != [size[1], size[0]]:
        text = f"expected the image's [height, width] {[size[1], size[0]]}"
        yield f"the RLE's 'size': {text}, got {show(rle.get('size'))}"
    elif type(counts) is list:
        natural = all(type(count) is int and count >= 0 for count in counts)
        if not natural or (area is not None and sum(counts) != area):
            text = "expected integers of at least 0 that sum to the image's area"
            yield f"the RLE's 'counts': {text}, got {show(counts)}"
    elif not isinstance(counts, (str, bytes)) or not counts:
        yield f"the RLE's 'counts': expected a list or a string, got {show(counts)}"
    elif area is not None and not is_whole(counts, area):
        text = f"expected runs that sum to {area} pixels, the image's area, got {show(counts)}"
        yield f"the RLE's 'counts': {text}"


def _is_far(polygon: list[float], size: Size) -> bool:
    """Return whether drawing a polygon would need unbounded memory.

    The library draws the whole polygon before it cuts it at the edges of the image.
    """
    xs, ys = polygon[0::2], polygon[1::2]
    width, height = size
    return min(xs) < -width or max(xs) > 2 * width or min(ys) < -height or max(ys) > 2 * height


def is_finite(numbers: Sequence[Any]) -> bool:
    """Return whether all values are numbers and their sum is finite as a float.

    Args:
        numbers: values of any type.
    """
    try:
        return math.isfinite(sum(numbers))
    except (TypeError, OverflowError):
        return False
