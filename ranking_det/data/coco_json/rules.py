"""Rules for categories, images, annotations and results of COCO and LVIS JSON, one entry each.

A rule takes an entry, whose fields have the right types, and what is known of its file, and returns
the faults that it finds. Which rules a profile applies is said in
:mod:`ranking_det.data.coco_json.reader`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ranking_det.data.coco_json.compressed_masks import are_whole
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
MASKS_AT_ONCE = 8192  # compressed masks collected before they are decoded
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


Rule = Callable[[dict[str, Any], Context], Sequence[Fault]]


def type_faults(entry: Any, fields: Mapping[str, type]) -> list[Fault]:
    """What keeps an entry from being an object with these keys, of exactly these types."""
    if type(entry) is not dict:
        return [Fault("wrong type", f"must be an object, got {show(entry)}")]
    faults = []
    for key, kind in fields.items():
        if type(entry.get(key)) is kind:  # True and 640.0 are no integers here
            continue
        if key not in entry:
            faults.append(Fault("missing key", f"has no {key!r}"))
        else:
            text = f"{key!r} must be {_TYPE_NAMES[kind]}, got {show(entry[key])}"
            faults.append(Fault("wrong type", text))
    return faults


def unique_id(entry: dict[str, Any], context: Context) -> Sequence[Fault]:
    """No two entries of a section have the same id."""
    if entry["id"] in context.ids:
        text = f"another {_NOUNS[context.section]} has the id {entry['id']}"
        return [Fault("duplicate id", text)]
    context.ids.add(entry["id"])
    return ()


def exact_id(entry: dict[str, Any], context: Context) -> Sequence[Fault]:
    """Ids are kept as floats by evaluation libraries."""
    if abs(entry["id"]) < MAX_ID:
        return ()
    return [Fault("wrong value", f"'id' must be below 2**53, got {show(entry['id'])}")]


def unique_name(category: dict[str, Any], context: Context) -> Sequence[Fault]:
    """No two categories have the same name."""
    name = category["name"]
    if name in context.category_of:
        text = f"the name {name!r} is also that of category {context.category_of[name]}"
        return [Fault("duplicate name", text)]
    context.category_of[name] = category["id"]
    return ()


def visible_name(category: dict[str, Any], context: Context) -> Sequence[Fault]:
    """The name of a category is more than white space."""
    return () if category["name"].strip() else [Fault("empty name", "the name is empty")]


def encodable_name(category: dict[str, Any], context: Context) -> Sequence[Fault]:
    """The name of a category can be written to a file; JSON may hold half of a pair of UTF-16."""
    try:
        category["name"].encode()
    except UnicodeEncodeError:
        text = f"the name {show(category['name'])} holds what is no character"
        return [Fault("broken name", text)]
    return ()


def frequency(category: dict[str, Any], context: Context) -> Sequence[Fault]:
    """LVIS's frequency of a category is rare, common or frequent."""
    if not context.lvis or category["frequency"] in ("r", "c", "f"):
        return ()
    text = f"'frequency' must be 'r', 'c' or 'f', got {show(category['frequency'])}"
    return [Fault("wrong value", text)]


def sides(image: dict[str, Any], context: Context) -> Sequence[Fault]:
    """Width and height are those of an image file."""
    return [
        Fault("image size", f"{key!r} must be from 1 to {MAX_SIDE}, got {show(image[key])}")
        for key in ("width", "height")
        if not 1 <= image[key] <= MAX_SIDE
    ]


def federated_lists(image: dict[str, Any], context: Context) -> Sequence[Fault]:
    """LVIS's lists of an image hold categories."""
    return [
        Fault("unknown category", f"{key!r} holds {show(identity)}, which is no category")
        for key in LVIS_LISTS
        for identity in image.get(key) or ()
        if type(identity) is not int or identity not in context.categories
    ]


def evaluated_lists(image: dict[str, Any], context: Context) -> Sequence[Fault]:
    """The same, where COCO's rules leave them out."""
    return federated_lists(image, context) if context.lvis else ()


def image_name(image: dict[str, Any], context: Context) -> Sequence[Fault]:
    """An image has a file name or a URL."""
    names = {key: image.get(key) for key in ("file_name", "coco_url")}
    if all(name is None for name in names.values()):
        return [Fault("missing key", "has no 'file_name' (nor LVIS's 'coco_url')")]
    return [
        Fault("wrong type", f"{key!r} must be a string that is not empty, got {show(name)}")
        for key, name in names.items()
        if name is not None and (type(name) is not str or not name)
    ]


def image_file(image: dict[str, Any], index: int, context: Context) -> Sequence[Fault]:
    """The file of ``images[index]`` is there, can be opened, and has the size that is said.

    All must be there; the headers of up to :data:`MAX_OPENED`, evenly spread, are read. It is asked
    for images without any other fault.
    """
    if context.finder is None:
        return ()
    path = context.finder.find(image)
    if path is None:
        places = " or ".join(context.finder.places(image))
        return [Fault("missing image file", f"no file {places}")]
    if not context.opened or index % context.opened:
        return ()
    try:
        width, height, mode = read_header(path)
    except Exception as error:  # the readers of broken files raise many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        return [Fault("unreadable image", f"{path} cannot be read ({reason})")]
    faults = []
    if mode.startswith(("I", "F")):
        # Pillow would make nearly all of it white.
        text = f"{path} has pixels of more than 8 bits; save it with 8"
        faults.append(Fault("pixel format", text))
    if (width, height) != (image["width"], image["height"]):
        text = f"the file says {image['width']} x {image['height']} (width x height), "
        faults.append(Fault("image size", text + f"but {path} is {width} x {height}"))
    return faults


def references(entry: dict[str, Any], context: Context) -> Sequence[Fault]:
    """The image and the category of an annotation or a result are known."""
    image, category = entry["image_id"], entry["category_id"]
    if image in context.sizes and category in context.categories:
        return ()
    faults, place = [], context.place
    if image not in context.sizes:
        text = f"'image_id' is {image}, which is no image of {place}"
        faults.append(Fault("unknown image", text))
    if category not in context.categories:
        text = f"'category_id' is {category}, which is no category of {place}"
        faults.append(Fault("unknown category", text))
    return faults


def box_numbers(entry: dict[str, Any], context: Context) -> Sequence[Fault]:
    """A box is four finite numbers."""
    box = entry["bbox"]
    if len(box) != 4 or any(type(value) not in NUMBERS for value in box):
        text = f"'bbox' must be 4 numbers x, y, width, height, got {show(box)}"
        return [Fault("malformed box", text)]
    if not is_finite(box) and not all(is_finite([value]) for value in box):
        return [Fault("malformed box", f"'bbox' holds NaN or infinity: {show(box)}")]
    return ()


def box_not_negative(annotation: dict[str, Any], context: Context) -> Sequence[Fault]:
    """A box that is evaluated may be of no area, and anywhere."""
    faults = box_numbers(annotation, context)
    if not faults and min(annotation["bbox"][2:]) < 0:
        text = f"width or height of 'bbox' is negative: {annotation['bbox']}"
        return [Fault("malformed box", text)]
    return faults


def box_inside(annotation: dict[str, Any], context: Context) -> Sequence[Fault]:
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
        return ()
    excess = max(-x, -y, x + width - size[0], y + height - size[1])
    if excess <= TOLERANCE:
        return ()
    corners = x < width <= size[0] and y < height <= size[1] and min(x, y) >= 0
    hint = "; is it x1, y1, x2, y2 instead of x, y, width, height?" if corners else ""
    text = (
        f"'bbox' {box} is outside image {annotation['image_id']} of {size[0]} x {size[1]} by "
        f"{excess:g} pixels{hint}"
    )
    return [Fault("box outside the image", text)]


def segmentation(annotation: dict[str, Any], context: Context) -> Sequence[Fault]:
    """The mask of an annotation, if it has one, can be drawn."""
    mask = annotation.get("segmentation")
    if not mask or not context.masks:
        return ()
    size = context.sizes.get(annotation["image_id"])
    return [Fault("segmentation", text) for text in _mask_faults(mask, size)]


def optional_values(annotation: dict[str, Any], context: Context) -> Sequence[Fault]:
    """The fields of an annotation that may be missing have a value that evaluations take."""
    faults = []
    if annotation.get("iscrowd", 0) not in (0, 1):
        text = f"'iscrowd' must be 0 or 1, got {show(annotation['iscrowd'])}"
        faults.append(Fault("wrong value", text))
    if annotation.get("ignore"):
        # COCO's evaluation overwrites it, and Detectron2's loader refuses it.
        text = "'ignore' has no effect in COCO's evaluation; use 'iscrowd': 1"
        faults.append(Fault("wrong value", text))
    area = annotation.get("area", 0)
    if type(area) not in NUMBERS or not is_finite([area]) or area < 0:
        text = f"'area' must be a finite number of at least 0, got {show(area)}"
        faults.append(Fault("wrong value", text))
    return faults


def score(result: dict[str, Any], context: Context) -> Sequence[Fault]:
    """A result has a score."""
    if "score" not in result:
        return [Fault("missing key", "has no 'score'")]
    value = result["score"]
    if type(value) not in NUMBERS or not is_finite([value]):
        text = f"has 'score' {show(value)}, which is no finite number"
        return [Fault("wrong value", text)]
    return ()


def result_segmentation(result: dict[str, Any], context: Context) -> Sequence[Fault]:
    """The mask of a result is a compressed RLE."""
    mask = result["segmentation"]
    texts = list(_mask_faults(mask, context.sizes.get(result["image_id"])))
    if not texts and type(mask["counts"]) is not str:
        text = f"must be a string, as a result's RLE is compressed, got {show(mask)}"
        texts = [f"the RLE's 'counts' {text}"]
    return [Fault("segmentation", text) for text in texts]


def broken_masks(
    entries: Sequence[Any], sizes: Mapping[int, Size | None]
) -> Iterator[tuple[int, Fault]]:
    """The compressed masks that do not fill their image, by the index of their entries.

    They are decoded many at once: 10 to 16 microseconds a mask of 120 to 160 characters, where a
    loop over their numbers takes 50 to 75.

    Args:
        entries: annotations or results; those with other faults in what matters are passed over.
        sizes: of the images by id.
    """
    for start in range(0, len(entries), MASKS_AT_ONCE):
        masks = {}
        for index, entry in enumerate(entries[start : start + MASKS_AT_ONCE], start=start):
            mask = _compressed(entry, sizes)
            if mask is not None:
                masks[index] = mask
        whole = are_whole(*zip(*masks.values(), strict=True)) if masks else ()
        for (index, (counts, area)), is_whole in zip(masks.items(), whole, strict=True):
            if not is_whole:
                text = f"decode to runs of {area} pixels, the image's area, but are {show(counts)}"
                yield index, Fault("segmentation", f"the RLE's 'counts' must {text}")


def _compressed(entry: Any, sizes: Mapping[int, Size | None]) -> tuple[str | bytes, int] | None:
    """Counts and area of the image, if the mask is compressed and may be whole."""
    mask = entry.get("segmentation") if type(entry) is dict else None
    if type(mask) is not dict or not isinstance(mask.get("counts"), (str, bytes)):
        return None
    identity = entry.get("image_id")
    size = sizes.get(identity) if type(identity) is int else None
    # An empty string is a fault that the rules have found.
    if size is None or not mask["counts"] or mask.get("size") != [size[1], size[0]]:
        return None
    return mask["counts"], size[0] * size[1]


def _mask_faults(mask: Any, size: Size | None) -> Iterator[str]:
    """What keeps a mask from being drawn; :func:`broken_masks` decodes those that are compressed.

    Args:
        mask: polygons or an RLE.
        size: of the image; None if it is not known.
    """
    if type(mask) is dict:
        yield from _rle_faults(mask, size)
        return
    if type(mask) is not list or any(type(polygon) is not list for polygon in mask):
        text = "must be a list of polygons, which are lists of numbers, or an RLE object"
        yield f"'segmentation' {text}, got {show(mask)}"
        return
    for index, polygon in enumerate(mask):
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
    if size is not None and rle.get("size") != [size[1], size[0]]:
        text = f"must be the image's [height, width] {[size[1], size[0]]}"
        yield f"the RLE's 'size' {text}, got {show(rle.get('size'))}"
    elif type(counts) is list:
        natural = all(type(count) is int and count >= 0 for count in counts)
        if not natural or (size is not None and sum(counts) != size[0] * size[1]):
            yield "the RLE's 'counts' must be integers that sum to the image's area"
    elif not isinstance(counts, (str, bytes)) or not counts:
        yield f"the RLE's 'counts' must be a list or a string, got {show(counts)}"


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
