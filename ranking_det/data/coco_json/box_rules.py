"""Check the boxes of objects: leave out boxes without size, clip boxes that stick out.

It also recognizes files in which all boxes are wrong in the same way: normalized or sub-pixel
boxes, corners instead of width and height, and boxes of smaller images.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_util

from ranking_det.data.coco_json.faults import CORRECTED, CUT, LEFT_OUT, REFUSED, Faults
from ranking_det.data.coco_json.fields import Entry, get_column, number
from ranking_det.user_errors import show

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


class Boxes(NamedTuple):
    """The boxes of n annotations.

    Attributes:
        xywh: (n, 4) float64: x, y, width, height in pixels; NaN for a missing box.
        replaced: the new box by index, for the entries whose box in the file is not used.
    """

    xywh: np.ndarray
    replaced: dict[int, list[float]]


def read_boxes(
    section: str, entries: Sequence[Entry], faults: Faults, conversions: Counter[str]
) -> Boxes:
    """Read the boxes of annotations or results as an array.

    Numbers may be written as text. An annotation without a box gets the box of its mask.

    Args:
        section: the name of the section.
        entries: the annotations or results.
        faults: receives a refusal for each box that is not four numbers.
        conversions: receives the number of boxes that were converted or made from a mask.

    Returns:
        The boxes. A missing box, and a coordinate that is null, are NaN.
    """
    boxes = get_column(entries, "bbox")
    regular_boxes = _boxes_of_four_numbers(boxes)
    if regular_boxes is not None:
        return Boxes(regular_boxes, {})
    result = Boxes(np.full((len(boxes), 4), np.nan), {})
    for index, box in enumerate(boxes):
        values = box
        if box in (None, []):
            mask = entries[index].get("segmentation") if section == "annotations" else None
            values = _box_of_mask(mask)
        if values is None:
            continue
        try:
            values = _coordinates(values)
        except ValueError:
            message = f"'bbox': expected 4 numbers x, y, width, height, got {show(box)}"
            faults.add(REFUSED, "malformed box", message, section, index, entries[index])
            continue
        result.xywh[index] = values
        if values != box or not all(type(value) in (int, float) for value in box):
            problem = "missing, made from the mask" if not box else "written as text or null"
            conversions[f"{section}: 'bbox' {problem}"] += 1
            result.replaced[index] = values
    return result


def _boxes_of_four_numbers(boxes: Sequence[Any]) -> np.ndarray | None:
    """Return boxes as an array if each is a list of four numbers, the usual case, else None."""
    if set(map(type, boxes)) <= {list} and set(map(len, boxes)) <= {4}:
        if set(map(type, chain.from_iterable(boxes))) <= {int, float}:
            try:
                flat = np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes))
            except OverflowError:  # an integer of hundreds of digits
                return None
            return flat.reshape(-1, 4)
    return None


def _coordinates(box: Any) -> list[float]:
    """Return the numbers of a box, also from text; NaN and infinity are kept.

    JavaScript writes NaN as null.

    Raises:
        ValueError: it is not four numbers.
    """
    if type(box) is not list or len(box) != 4:
        raise ValueError
    return [math.nan if value is None else _coordinate(value) for value in box]


def _coordinate(value: Any) -> float:
    if type(value) not in (int, float, str):
        raise ValueError
    try:
        return value if type(value) is float else number(float(value))
    except OverflowError:  # an integer of hundreds of digits
        return math.inf
    except ValueError:
        if str(value).strip().lower() in ("nan", "inf", "infinity", "-inf", "-infinity"):
            return math.nan
        raise


def _box_of_mask(mask: Any) -> list[float] | None:
    """Return the box around a mask, or None if there is no usable mask."""
    try:
        if type(mask) is dict:
            if type(mask["counts"]) is list:
                mask = mask_util.frPyObjects(mask, *mask["size"])
            return mask_util.toBbox(mask).tolist()
        polygons = mask if type(mask[0]) is list else [mask]
        xs = [x for polygon in polygons for x in polygon[0::2]]
        ys = [y for polygon in polygons for y in polygon[1::2]]
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    except (TypeError, KeyError, IndexError, ValueError):
        return None


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
