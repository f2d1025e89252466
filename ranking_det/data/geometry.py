"""Checks of the numbers of an annotation or a result: its box and its mask."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ranking_det.data.faults import Fault, show
from ranking_det.data.rle import are_whole

# What boxes may exceed the image by, in pixels: converters that count pixels from 1, or take the
# last pixel's index for the edge, are off by one. In samples of COCO and LVIS no box exceeds it.
TOLERANCE = 1.0
FLAT = "box without area"
_CHUNK = 8192  # compressed masks collected before they are decoded
_NUMBERS = (int, float)

Size = tuple[int, int]  # width, height


def is_number(value: Any) -> bool:
    """Whether it is an integer or float that is finite as a float."""
    return type(value) in _NUMBERS and _finite([value])


def corner_faults(box: Sequence[Any]) -> Iterator[Fault]:
    """What keeps a box from being four finite numbers."""
    if len(box) != 4 or any(type(value) not in _NUMBERS for value in box):
        yield "malformed box", f"'bbox' must be 4 numbers x, y, width, height, got {show(box)}"
    elif not all(map(is_number, box)):
        yield "malformed box", f"'bbox' holds NaN or infinity: {show(box)}"


def box_faults(box: Sequence[Any], image_id: int, size: Size | None) -> Iterator[Fault]:
    """What keeps a box from being trained on: no area, or outside its image."""
    found = list(corner_faults(box))
    if found:
        yield from found
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


def segmentation_faults(segmentation: Any, size: Size | None) -> Iterator[Fault]:
    """What keeps a mask from being drawn; :func:`broken_masks` decodes those that are compressed.

    Args:
        segmentation: polygons or an RLE.
        size: of the image; None if it is not known.
    """
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
        elif size is not None and _is_far(polygon, size):
            text = f"is more than an image away from its image of {size[0]} x {size[1]}"
            yield "segmentation", f"'segmentation'[{index}] {text}: {show(polygon)}"


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
    for start in range(0, len(entries), _CHUNK):
        found = {}
        for index, entry in enumerate(entries[start : start + _CHUNK], start=start):
            mask = _compressed(entry, sizes)
            if mask is not None:
                found[index] = mask
        whole = are_whole([own[0] for own in found.values()], [own[1] for own in found.values()])
        for (index, (counts, area)), right in zip(found.items(), whole, strict=True):
            if not right:
                text = f"decode to runs of {area} pixels, the image's area, but are {show(counts)}"
                yield index, ("segmentation", f"the RLE's 'counts' must {text}")


def _compressed(entry: Any, sizes: Mapping[int, Size | None]) -> tuple[str | bytes, int] | None:
    """Counts and area of the image, if the mask is compressed and may be whole."""
    mask = entry.get("segmentation") if type(entry) is dict else None
    if type(mask) is not dict or not isinstance(mask.get("counts"), (str, bytes)):
        return None
    identity = entry.get("image_id")
    size = sizes.get(identity) if type(identity) is int else None
    # An empty string has been told already.
    if size is None or not mask["counts"] or mask.get("size") != [size[1], size[0]]:
        return None
    return mask["counts"], size[0] * size[1]


def _rle_faults(rle: dict[str, Any], size: Size | None) -> Iterator[Fault]:
    counts = rle.get("counts")
    if size is not None and rle.get("size") != [size[1], size[0]]:
        text = f"must be the image's [height, width] {[size[1], size[0]]}"
        yield "segmentation", f"the RLE's 'size' {text}, got {show(rle.get('size'))}"
    elif type(counts) is list:
        right = all(type(count) is int and count >= 0 for count in counts)
        if not right or (size is not None and sum(counts) != size[0] * size[1]):
            yield "segmentation", "the RLE's 'counts' must be integers that sum to the image's area"
    elif not isinstance(counts, (str, bytes)) or not counts:
        yield "segmentation", f"the RLE's 'counts' must be a list or a string, got {show(counts)}"


def _is_far(polygon: list[float], size: Size) -> bool:
    """Whether a polygon, which is drawn before it is cut, would need memory without end."""
    xs, ys = polygon[0::2], polygon[1::2]
    width, height = size
    return min(xs) < -width or max(xs) > 2 * width or min(ys) < -height or max(ys) > 2 * height


def _finite(numbers: list[Any]) -> bool:
    try:
        return math.isfinite(sum(numbers))
    except (TypeError, OverflowError):
        return False
