"""Rules for the categories, images, references and boxes of COCO and LVIS JSON.

Boxes without size are left out, and boxes that stick out of their image are clipped. Files in which
all boxes are wrong in the same way are recognized: normalized or sub-pixel boxes, corners instead
of width and height, and boxes of smaller images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from ranking_det.data.coco_json.faults import CORRECTED, CUT, LEFT_OUT, NOTED, REFUSED, Faults
from ranking_det.data.coco_json.fields import Boxes, Entry, Section, identifier
from ranking_det.user_errors import show

LVIS_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
MAX_ID = 2**53
"""From this integer on, ids are not distinct in evaluation libraries, which use float64."""

MAX_SIDE = 65535
"""JPEG's largest side; the libraries that draw masks count pixels in 32 bits."""

TOLERANCE = 1.0
"""Boxes that stick out of their image by at most this, in pixels, are not changed.

Converters that count pixels from 1, or take the last pixel's index for the edge, are off by one.
"""

_NEARLY_ALL = 0.95
"""Share of the boxes that must look wrong in the same way; a file may have a few other boxes."""

_CORNER = 0.25
"""Share of the width and height of an image that counts as its corner."""

_MIN_EXCESS = 0.1
"""Minimum mean excess of boxes over their image, as a share of the image's side, from which to
conclude that x2, y2 were written instead of width, height."""

_NO_PARENT = (None, "", "none", "None")


def id_order(identity: int | str) -> tuple[bool, int | str]:
    """Return a key that sorts ids: integers first, then text.

    Args:
        identity: the id.
    """
    return isinstance(identity, str), identity


def drop_unused_categories(
    categories: Sequence[Entry], used_ids: Collection[Any], faults: Faults
) -> list[Entry]:
    """Drop the categories that are not classes.

    These are categories that are listed again, as in exports of VIA, and root categories without
    annotations, as in exports of Roboflow. A root category is the ``supercategory`` of others and
    has none itself, or it has the name of another category.

    Args:
        categories: the entries, with ``id`` and ``name``.
        used_ids: the category ids of annotations.
        faults: receives the dropped categories as notes, and ambiguous ids and names as refusals.

    Returns:
        The classes, in the order of the file.
    """
    category_of: dict[Any, Entry] = {}
    index_of: dict[Any, int] = {}
    for index, category in enumerate(categories):
        identity = category["id"]
        if identity not in category_of:
            category_of[identity], index_of[identity] = category, index
        elif category_of[identity]["name"] == category["name"]:
            text = f"the category {show(category['name'])} is listed again"
            faults.add(NOTED, "category listed again", text, "categories", index, category)
        else:
            text = f"another category has the id {identity}"
            faults.add(REFUSED, "duplicate id", text, "categories", index, category)
    parents = [category.get("supercategory") for category in categories]
    names = Counter(category["name"] for category in category_of.values())
    for identity, category in list(category_of.items()):
        name = category["name"]
        is_root = name in parents and category.get("supercategory") in _NO_PARENT
        if identity not in used_ids and len(category_of) > 1 and (is_root or names[name] > 1):
            names[name] -= 1
            del category_of[identity]
            text = f"the root category {show(name)} has no annotation and is not a class"
            faults.add(NOTED, "root category", text, "categories", index_of[identity], category)
    first: dict[str, Any] = {}
    for identity, category in category_of.items():
        name, place = category["name"], ("categories", index_of[identity], category)
        if name in first:
            text = f"category {first[name]} has the same name, {name!r}"
            faults.add(REFUSED, "duplicate name", text, *place)
        first.setdefault(name, identity)
        if not name.strip():
            text = f"'name': expected more than white space, got {show(name)}"
            faults.add(REFUSED, "empty name", text, *place)
        # JSON may contain a lone UTF-16 surrogate, which cannot be written to a file.
        if not name.isprintable() and any("\ud800" <= character <= "\udfff" for character in name):
            text = f"'name': expected characters that UTF-8 can encode, got {show(name)}"
            faults.add(REFUSED, "broken name", text, *place)
    return list(category_of.values())


def check_images(images: Sequence[Entry], faults: Faults) -> None:
    """Refuse images with the id of another image, and impossible sizes.

    Args:
        images: the entries, with ``id``; ``width`` and ``height`` may be missing.
        faults: receives the refusals.
    """
    if len({image["id"] for image in images}) < len(images):
        earlier_ids: set[Any] = set()
        for index, image in enumerate(images):
            if image["id"] in earlier_ids:
                text = f"another image has the id {image['id']}"
                faults.add(REFUSED, "duplicate id", text, "images", index, image)
            earlier_ids.add(image["id"])
    for index, image in enumerate(images):
        for key in ("width", "height"):
            if not 1 <= image.get(key, 1) <= MAX_SIDE:
                text = f"{key!r}: expected 1 to {MAX_SIDE}, got {show(image[key])}"
                faults.add(REFUSED, "image size", text, "images", index, image)


def check_lvis_lists(images: list[Entry], class_ids: set[Any], faults: Faults) -> None:
    """Refuse unknown categories in LVIS's lists, and convert the ids to their normal form.

    Args:
        images: the entries; those with converted ids are replaced by copies.
        class_ids: ids of the categories.
        faults: receives the refusals.
    """
    for index, image in enumerate(images):
        for key in LVIS_LISTS:
            identities = image.get(key) or []
            if set(map(type, identities)) <= {int} and class_ids.issuperset(identities):
                continue
            ids = [_known_id(identity, class_ids) for identity in identities]
            for identity, normalized_id in zip(identities, ids, strict=True):
                if normalized_id is None:
                    text = f"{key!r}: expected ids of categories, got {show(identity)}"
                    faults.add(REFUSED, "unknown category", text, "images", index, image)
            images[index] = images[index] | {key: ids}


def _known_id(value: Any, class_ids: Collection[Any]) -> Any:
    """Return an id in its normal form, None if no category has it."""
    try:
        identity = identifier(value)
    except ValueError:
        return None
    return identity if identity in class_ids else None


def check_references(
    section: Section,
    image_ids: Collection[Any],
    class_ids: Collection[Any],
    id_source: str,
    faults: Faults,
) -> None:
    """Refuse annotations or results of unknown images or categories.

    Args:
        section: the entries, with the columns ``image_id`` and ``category_id``.
        image_ids: the ids of the known images.
        class_ids: the ids of the known categories.
        id_source: the place of the known ids for messages, such as "the file".
        faults: receives the refusals.
    """
    for noun, known_ids in (("image", image_ids), ("category", class_ids)):
        ids = section.columns[f"{noun}_id"]
        if set(ids) <= set(known_ids):
            continue
        for index, identity in enumerate(ids):
            if identity not in known_ids:
                phrase = "an image" if noun == "image" else "a category"
                expected = f"expected the id of {phrase} in {id_source}"
                text = f"'{noun}_id': {expected}, got {show(identity)}"
                place = section.name, index, section.entries[index]
                faults.add(REFUSED, f"unknown {noun}", text, *place)


def check_boxes(
    annotations: Sequence[Entry], boxes: Boxes, sizes: np.ndarray, faults: Faults
) -> np.ndarray:
    """Find the objects that can be used, and clip their boxes to their image.

    Args:
        annotations: n entries, whose images are known.
        boxes: their boxes; clipped boxes are added to ``replaced``.
        sizes: (n, 2) float64, width and height of each object's image in pixels; NaN if unknown.
        faults: receives the objects that are left out, cut or corrected.

    Returns:
        (n,) bool: whether to keep each annotation.
    """
    x, y, width, height = boxes.xywh.T
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.isfinite(boxes.xywh).all(1)
        empty = finite & ((width <= 0) | (height <= 0))
        is_known = np.isfinite(sizes).all(1, keepdims=True)
        lower, upper = np.where(is_known, 0, -np.inf), np.where(is_known, sizes, np.inf)
        corners = np.stack([x, y, x + width, y + height], 1)
        clipped = np.clip(corners, lower, np.concatenate([upper, upper], 1))
        outside = finite & ~empty & (clipped[:, 2:] <= clipped[:, :2]).any(1)
        excess = np.abs(clipped - corners).max(1, initial=0)
        sticks_out = finite & ~empty & ~outside & (excess > TOLERANCE)
        area = (clipped[:, 2] - clipped[:, 0]) * (clipped[:, 3] - clipped[:, 1])
        halved = sticks_out & (area < 0.5 * width * height)
    for index in np.flatnonzero(~finite | empty | outside | sticks_out).tolist():
        annotation, box = annotations[index], boxes.xywh[index].tolist()
        box_text = "x, y, width, height = " + ", ".join(f"{value:g}" for value in box)
        image_text = f"its image of {sizes[index, 0]:g} x {sizes[index, 1]:g}"
        if not finite[index]:
            box_text = show(annotation.get("bbox"))
            fault = LEFT_OUT, "box that is missing, NaN or infinite", f"'bbox' is {box_text}"
        elif empty[index]:
            fault = LEFT_OUT, "box without size", f"'bbox' has no size: {box_text}"
        elif outside[index]:
            fault = (
                LEFT_OUT,
                "box outside its image",
                f"'bbox' lies outside {image_text}: {box_text}",
            )
        else:
            action = CUT if halved[index] else CORRECTED
            problem = (
                f"sticks out of {image_text} by {excess[index]:g} pixels and is clipped: {box_text}"
            )
            fault = action, "box clipped to its image", f"'bbox' {problem}"
            left, top, right, bottom = clipped[index].tolist()
            boxes.replaced[index] = [left, top, right - left, bottom - top]
        faults.add(*fault, "annotations", index, annotation)
    return finite & ~empty & ~outside


class Pattern(NamedTuple):
    """A likely reason why all boxes of a file are wrong.

    Attributes:
        count: the number of boxes that look wrong.
        text: what is wrong and what helps, for a message.
    """

    count: int
    text: str


def find_pattern(boxes: np.ndarray, sizes: np.ndarray, images: np.ndarray) -> Pattern | None:
    """Recognize boxes that are not x, y, width, height in pixels of their image.

    Args:
        boxes: (n, 4) float64, x, y, width, height as in the file; NaN for a missing box.
        sizes: (n, 2) float64, width and height of each object's image in pixels; NaN if unknown.
        images: (n,) int64, an index of the image of each object.

    Returns:
        The likely reason; None if the boxes look right.
    """
    is_known = np.isfinite(boxes).all(1) & np.isfinite(sizes).all(1)
    boxes, sizes, images = boxes[is_known], sizes[is_known], images[is_known]
    if not len(boxes):
        return None
    start, extent = boxes[:, :2], boxes[:, 2:]
    convert = "python -m ranking_det.data.convert"
    normalized = ((boxes >= 0) & (boxes <= 1)).all(1) & (extent > 0).all(1)
    if normalized.mean() >= _NEARLY_ALL:
        text = (
            "lie within 0 to 1 and look normalized, but must be in pixels; "
            f"`{convert} FILE --boxes normalized` converts them"
        )
        return Pattern(int(normalized.sum()), text)
    tiny = ((extent > 0) & (extent < 1)).all(1)
    if tiny.mean() >= _NEARLY_ALL:
        text = (
            "are smaller than a pixel in width and height, as if these were normalized, but must "
            f"be in pixels; `{convert} FILE --boxes normalized` converts them"
        )
        return Pattern(int(tiny.sum()), text)
    as_corners = (extent > start).all(1) & (extent <= sizes + TOLERANCE).all(1)
    excess = ((start + extent - sizes) / sizes).max(1)
    sticks_out = (start + extent > sizes + TOLERANCE).any(1)
    if (
        as_corners.mean() >= _NEARLY_ALL
        and sticks_out.mean() >= 0.5
        and excess[sticks_out].mean() > _MIN_EXCESS
    ):
        text = (
            "look like corners x1, y1, x2, y2 instead of x, y, width, height; "
            f"`{convert} FILE --boxes xyxy` converts them"
        )
        return Pattern(int(as_corners.sum()), text)
    in_corner = (start + extent <= _CORNER * sizes).all(1)
    if in_corner.all() and len(boxes) >= 20 and len(np.unique(images)) >= 5:
        text = (
            "lie in one corner, in the first quarter of the width and height of their images, as "
            "if the annotated images were smaller; give the images that were annotated"
        )
        return Pattern(len(boxes), text)
    return None
