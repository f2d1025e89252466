"""Rules for categories, images, annotations and results of COCO and LVIS JSON, one entry each.

A rule takes an entry, whose fields have the right types, and what is known of its file, and yields
the faults that it finds. Which rules a profile applies is said in
:mod:`ranking_det.data.coco_json.reader`.
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
# From here on floats, which evaluation libraries keep ids as, are not exact.
MAX_ID = 2**53
MAX_SIDE = 65535  # JPEG's; and the libraries count pixels in 32 bits
# More images than this are not all opened, as that could take minutes on a slow disk.
MAX_OPENED = 10_000
# What boxes may exceed the image by, in pixels: converters that count pixels from 1, or take the
# last pixel's index for the edge, are off by one. In samples of COCO and LVIS no box exceeds it.
TOLERANCE = 1.0
FLAT = "box without area"
FORGIVEN = {FLAT: 1e-5}
"""The share of the objects that may have a fault of a kind, which is then counted in a warning.

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
    """What is wrong with an entry.

    Attributes:
        kind: by which faults are counted, and forgiven by :data:`FORGIVEN`.
        text: the same in words, with the value.
    """

    kind: str
    text: str


class Faults:
    """Counts the faults of one file by kind and keeps the first ten in words.

    Args:
        where: the file, as messages name it.
        first_only: whether to raise at the first fault instead.
    """

    def __init__(self, where: str, *, first_only: bool = False) -> None:
        self.where = where
        self.first_only = first_only
        self.counts: Counter[str] = Counter()
        self.lines: list[str] = []

    def add(self, section: str, index: int, entry: Any, faults: Iterable[Fault]) -> None:
        """Count the faults of the entry ``section[index]`` of the file.

        Raises:
            UserError: there is one, and only the first is asked for.
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
        """Raise UserError if there are any."""
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
    """What rules know of the file that an entry is from, beside the entry.

    Attributes:
        lvis: whether entries must have LVIS's fields.
        place: where ids must be known, in words.
        masks: whether segmentations are looked at.
        categories: the names by id; empty for a category that is faulty.
        sizes: (width, height) of the images by id; None for an image without a valid size.
        finder: finds the image files; None if they are not looked for.
        opened: every how many-th image file is opened; 0 for none.
        section: that of the entry, or "bbox" or "segm" of a result.
        ids: those of the section so far.
        category_of: the ids of categories by name.
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


def type_faults(entry: Any, fields: Mapping[str, type]) -> list[Fault]:
    """What keeps an entry from being an object with these keys, of exactly these types."""
    if type(entry) is not dict:
        return [Fault("wrong type", f"must be an object, got {show(entry)}")]
    return [
        Fault("wrong type", f"{key!r} must be {_TYPE_NAMES[kind]}, got {show(entry[key])}")
        if key in entry
        else Fault("missing key", f"has no {key!r}")
        for key, kind in fields.items()
        if type(entry.get(key)) is not kind  # True and 640.0 are no integers here
    ]


def unique_id(entry: Entry, context: Context) -> Iterator[Fault]:
    """No two entries of a section have the same id."""
    if entry["id"] in context.ids:
        text = f"another {_NOUNS[context.section]} has the id {entry['id']}"
        yield Fault("duplicate id", text)
    context.ids.add(entry["id"])


def exact_id(entry: Entry, context: Context) -> Iterator[Fault]:
    """Ids are kept as floats by evaluation libraries."""
    if abs(entry["id"]) >= MAX_ID:
        yield Fault("wrong value", f"'id' must be below 2**53, got {show(entry['id'])}")


def distinct_name(category: Entry, context: Context) -> Iterator[Fault]:
    """The name of a category is more than white space, and is no other's."""
    name = category["name"]
    if not name.strip():
        yield Fault("empty name", "the name is empty")
    if name in context.category_of:
        text = f"the name {name!r} is also that of category {context.category_of[name]}"
        yield Fault("duplicate name", text)
    context.category_of.setdefault(name, category["id"])


def encodable_name(category: Entry, context: Context) -> Iterator[Fault]:
    """The name of a category can be written to a file; JSON may hold half of a pair of UTF-16."""
    try:
        category["name"].encode()
    except UnicodeEncodeError:
        text = f"the name {show(category['name'])} holds what is no character"
        yield Fault("broken name", text)


def frequency(category: Entry, context: Context) -> Iterator[Fault]:
    """LVIS's frequency of a category is rare, common or frequent."""
    if context.lvis and category["frequency"] not in ("r", "c", "f"):
        text = f"'frequency' must be 'r', 'c' or 'f', got {show(category['frequency'])}"
        yield Fault("wrong value", text)


def sides(image: Entry, context: Context) -> Iterator[Fault]:
    """Width and height are those of an image file."""
    for key in ("width", "height"):
        if not 1 <= image[key] <= MAX_SIDE:
            text = f"{key!r} must be from 1 to {MAX_SIDE}, got {show(image[key])}"
            yield Fault("image size", text)


def federated_lists(image: Entry, context: Context) -> Iterator[Fault]:
    """LVIS's lists of an image hold categories."""
    for key in LVIS_LISTS:
        for identity in image.get(key) or ():
            if type(identity) is not int or identity not in context.categories:
                text = f"{key!r} holds {show(identity)}, which is no category"
                yield Fault("unknown category", text)


def evaluated_lists(image: Entry, context: Context) -> Iterable[Fault]:
    """The same, where COCO's rules leave them out."""
    return federated_lists(image, context) if context.lvis else ()


def image_name(image: Entry, context: Context) -> Iterator[Fault]:
    """An image has a file name or a URL."""
    names = {key: image.get(key) for key in ("file_name", "coco_url")}
    if all(name is None for name in names.values()):
        yield Fault("missing key", "has no 'file_name' (nor LVIS's 'coco_url')")
    for key, name in names.items():
        if name is not None and (type(name) is not str or not name):
            text = f"{key!r} must be a string that is not empty, got {show(name)}"
            yield Fault("wrong type", text)


def image_file(image: Entry, index: int, context: Context) -> Iterator[Fault]:
    """The file of ``images[index]`` is there, can be opened, and has the size that is said.

    All must be there; the headers of up to :data:`MAX_OPENED`, evenly spread, are read. It is asked
    for images without any other fault.
    """
    if context.finder is None:
        return
    path = context.finder.find(image)
    if path is None:
        places = " or ".join(context.finder.places(image))
        yield Fault("missing image file", f"no file {places}")
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
        # Pillow would make nearly all of it white.
        yield Fault("pixel format", f"{path} has pixels of more than 8 bits; save it with 8")
    if (width, height) != (image["width"], image["height"]):
        text = f"the file says {image['width']} x {image['height']} (width x height), "
        yield Fault("image size", text + f"but {path} is {width} x {height}")


def references(entry: Entry, context: Context) -> Iterator[Fault]:
    """The image and the category of an annotation or a result are known."""
    for noun, known in (("image", context.sizes), ("category", context.categories)):
        identity = entry[f"{noun}_id"]
        if identity not in known:
            text = f"'{noun}_id' is {identity}, which is no {noun} of {context.place}"
            yield Fault(f"unknown {noun}", text)


def box_numbers(entry: Entry, context: Context) -> list[Fault]:
    """A box is four finite numbers."""
    box = entry["bbox"]
    if len(box) != 4 or any(type(value) not in NUMBERS for value in box):
        text = f"'bbox' must be 4 numbers x, y, width, height, got {show(box)}"
        return [Fault("malformed box", text)]
    if not is_finite(box) and not all(is_finite([value]) for value in box):
        return [Fault("malformed box", f"'bbox' holds NaN or infinity: {show(box)}")]
    return []


def box_not_negative(annotation: Entry, context: Context) -> list[Fault]:
    """A box that is evaluated may be of no area, and anywhere."""
    faults = box_numbers(annotation, context)
    if not faults and min(annotation["bbox"][2:]) < 0:
        text = f"width or height of 'bbox' is negative: {annotation['bbox']}"
        return [Fault("malformed box", text)]
    return faults


def box_inside(annotation: Entry, context: Context) -> list[Fault]:
    """A box that is trained on has an area, and lies inside its image up to a pixel."""
    faults = box_numbers(annotation, context)
    if faults:
        return faults
    box = x, y, width, height = annotation["bbox"]
    if width <= 0 or height <= 0:
        kind = FLAT if min(width, height) == 0 < max(width, height) else "box of no positive size"
        text = f"width and height of 'bbox' must be positive, got {box}"
        return [Fault(kind, text)]
    size = context.sizes.get(annotation["image_id"])
    if size is None:
        return []
    excess = max(-x, -y, x + width - size[0], y + height - size[1])
    if excess <= TOLERANCE:
        return []
    corners = x < width <= size[0] and y < height <= size[1] and min(x, y) >= 0
    hint = "; is it x1, y1, x2, y2 instead of x, y, width, height?" if corners else ""
    image = f"image {annotation['image_id']} of {size[0]} x {size[1]}"
    text = f"'bbox' {box} is outside {image} by {excess:g} pixels{hint}"
    return [Fault("box outside the image", text)]


def segmentation(annotation: Entry, context: Context) -> Iterator[Fault]:
    """The mask of an annotation, if it has one, can be drawn."""
    if annotation.get("segmentation") and context.masks:
        yield from _mask_faults(annotation, context)


def result_segmentation(result: Entry, context: Context) -> Iterator[Fault]:
    """The mask of a result is a compressed RLE."""
    mask = result["segmentation"]
    faults = list(_mask_faults(result, context))
    if not faults and type(mask["counts"]) is not str:
        text = f"must be a string, as a result's RLE is compressed, got {show(mask)}"
        faults = [Fault("segmentation", f"the RLE's 'counts' {text}")]
    yield from faults


def optional_values(annotation: Entry, context: Context) -> Iterator[Fault]:
    """The fields of an annotation that may be missing have a value that evaluations take."""
    if annotation.get("iscrowd", 0) not in (0, 1):
        yield Fault("wrong value", f"'iscrowd' must be 0 or 1, got {show(annotation['iscrowd'])}")
    if annotation.get("ignore"):
        # COCO's evaluation overwrites it, and Detectron2's loader refuses it.
        yield Fault("wrong value", "'ignore' has no effect in COCO's evaluation; use 'iscrowd': 1")
    area = annotation.get("area", 0)
    if type(area) not in NUMBERS or not is_finite([area]) or area < 0:
        text = f"'area' must be a finite number of at least 0, got {show(area)}"
        yield Fault("wrong value", text)


def score(result: Entry, context: Context) -> Iterator[Fault]:
    """A result has a score."""
    if "score" not in result:
        yield Fault("missing key", "has no 'score'")
    elif type(result["score"]) not in NUMBERS or not is_finite([result["score"]]):
        text = f"has 'score' {show(result['score'])}, which is no finite number"
        yield Fault("wrong value", text)


def _mask_faults(entry: Entry, context: Context) -> Iterator[Fault]:
    """What keeps a mask, polygons or an RLE, from being drawn."""
    mask, size = entry["segmentation"], context.sizes.get(entry["image_id"])
    if type(mask) is dict:
        texts = _rle_faults(mask, size)
    elif type(mask) is list and all(type(polygon) is list for polygon in mask):
        texts = _polygon_faults(mask, size)
    else:
        text = "must be a list of polygons, which are lists of numbers, or an RLE object"
        texts = iter([f"'segmentation' {text}, got {show(mask)}"])
    for text in texts:
        yield Fault("segmentation", text)


def _polygon_faults(polygons: list[list[Any]], size: Size | None) -> Iterator[str]:
    for index, polygon in enumerate(polygons):
        if len(polygon) < 6 or len(polygon) % 2:
            text = f"has {len(polygon)} numbers; a polygon has x and y of at least 3 points"
        elif not is_finite(polygon):
            text = "must hold finite numbers only"
        elif size is not None and _is_far(polygon, size):
            text = f"is more than an image away from its image of {size[0]} x {size[1]}"
            text += f": {show(polygon)}"
        else:
            continue
        yield f"'segmentation'[{index}] {text}"


def _rle_faults(rle: dict[str, Any], size: Size | None) -> Iterator[str]:
    counts = rle.get("counts")
    area = None if size is None else size[0] * size[1]
    if size is not None and rle.get("size") != [size[1], size[0]]:
        text = f"must be the image's [height, width] {[size[1], size[0]]}"
        yield f"the RLE's 'size' {text}, got {show(rle.get('size'))}"
    elif type(counts) is list:
        natural = all(type(count) is int and count >= 0 for count in counts)
        if not natural or (area is not None and sum(counts) != area):
            yield "the RLE's 'counts' must be integers that sum to the image's area"
    elif not isinstance(counts, (str, bytes)) or not counts:
        yield f"the RLE's 'counts' must be a list or a string, got {show(counts)}"
    elif area is not None and not is_whole(counts, area):
        text = f"decode to runs of {area} pixels, the image's area, but are {show(counts)}"
        yield f"the RLE's 'counts' must {text}"


def _is_far(polygon: list[float], size: Size) -> bool:
    """Whether a polygon, which is drawn before it is cut, would need memory without end."""
    xs, ys = polygon[0::2], polygon[1::2]
    width, height = size
    return min(xs) < -width or max(xs) > 2 * width or min(ys) < -height or max(ys) > 2 * height


def is_finite(numbers: Sequence[Any]) -> bool:
    """Whether all are numbers, with a sum that is finite as a float."""
    try:
        return math.isfinite(sum(numbers))
    except (TypeError, OverflowError):
        return False
