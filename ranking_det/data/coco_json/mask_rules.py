"""Check the masks of objects: drop polygons and run-length encodings (RLE) that cannot be drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from ranking_det.data.coco_json.faults import CORRECTED, Faults
from ranking_det.data.coco_json.fields import Entry, get_column
from ranking_det.data.coco_json.rle_validation import is_whole
from ranking_det.user_errors import quantity, show

Size = tuple[int, int]  # width, height


def keep_usable_masks(
    annotations: Sequence[Entry], sizes: dict[Any, Size], faults: Faults
) -> list[Entry]:
    """Drop the masks, and the polygons of masks, that cannot be drawn.

    A flat list of numbers is one polygon. Polygons without area are dropped. An object whose mask
    is dropped keeps its box.

    Args:
        annotations: the annotations, with known images.
        sizes: (width, height) of the images in pixels by id.
        faults: receives each dropped polygon and mask.

    Returns:
        The annotations; those with a changed mask are copies.
    """
    result = list(annotations)
    masks = get_column(annotations, "segmentation")
    for index in _find_irregular(masks, [sizes.get(a["image_id"], (0, 0)) for a in annotations]):
        annotation, mask = annotations[index], masks[index]
        size = sizes[annotation["image_id"]]
        if type(mask) is dict:
            usable, texts = mask, list(rle_faults(mask, size))
            if texts:
                usable = []
            elif not all(type(side) is int for side in mask["size"]):
                usable = {**mask, "size": [size[1], size[0]]}
        else:
            usable, texts = _usable_polygons(mask, size)
        for text in texts if usable else texts[:1]:
            kind = "polygon dropped" if usable else "mask dropped"
            faults.add(CORRECTED, kind, text, "annotations", index, annotation)
        if usable is not mask and (usable != mask or type(mask) is dict):
            result[index] = {**annotation, "segmentation": usable}
    return result


def _find_irregular(masks: Sequence[Any], sizes: Sequence[Size]) -> list[int]:
    """Return the indices of the masks that must be checked one by one.

    Nearly all masks are lists of ordinary polygons. These are checked here in one call, which is
    several times as fast.
    """
    other_masks, owners, polygons = [], [], []
    for index, mask in enumerate(masks):
        if type(mask) is list and set(map(type, mask)) == {list}:
            owners += [index] * len(mask)
            polygons += mask
        elif mask:
            other_masks.append(index)
    lengths = np.fromiter(map(len, polygons), np.int64, len(polygons))
    is_plain = (lengths >= 6) & (lengths % 2 == 0)
    if not set(map(type, chain.from_iterable(polygons))) <= {int, float}:
        is_plain[:] = False
    faulty = np.array(owners, dtype=np.int64)[~is_plain]
    plain = np.flatnonzero(is_plain)
    if len(plain):
        try:
            are_faulty = _are_faulty(
                [polygons[i] for i in plain.tolist()],
                lengths[plain] // 2,
                np.array([sizes[owners[i]] for i in plain.tolist()], dtype=np.float64),
            )
        except OverflowError:  # an integer of hundreds of digits
            are_faulty = np.ones(len(plain), dtype=bool)
        faulty = np.concatenate([faulty, np.array(owners, dtype=np.int64)[plain[are_faulty]]])
    return sorted({*other_masks, *faulty.tolist()})


def _are_faulty(
    polygons: Sequence[Sequence[float]], counts: np.ndarray, sizes: np.ndarray
) -> np.ndarray:
    """Return for each of n polygons whether :func:`_polygon_fault` may find a fault, (n,) bool.

    ``counts`` (n,) are the numbers of points, ``sizes`` (n, 2) width and height of the images.
    """
    flat = np.fromiter(chain.from_iterable(polygons), np.float64, 2 * int(counts.sum()))
    points, starts = flat.reshape(-1, 2), np.cumsum(counts) - counts
    low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    following = np.roll(points, -1, axis=0)
    following[starts + counts - 1] = points[starts]
    with np.errstate(invalid="ignore", over="ignore"):
        # Relative to the first corner, so that rounding does not hide that an area is 0.
        corner = np.repeat(low, counts, axis=0)
        a, b = points - corner, following - corner
        areas = np.abs(np.add.reduceat(a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1], starts))
        extent = high - low
        is_fine = (low >= -sizes).all(1) & (high <= 2 * sizes).all(1) & (extent > 0).all(1)
        return ~(is_fine & (areas > 1e-6 * extent.prod(1)))


def _usable_polygons(mask: Any, size: Size) -> tuple[list[list[float]], list[str]]:
    """Return the polygons that can be drawn, and the faults of the others in words."""
    if type(mask) is not list:
        expected = "expected a list of polygons, which are lists of numbers, or an RLE object"
        return [], [f"'segmentation': {expected}, got {show(mask)}"]
    if all(type(value) in (int, float) for value in mask):
        mask = [mask]
    usable, texts = [], []
    for number, polygon in enumerate(mask):
        fault = _polygon_fault(polygon, size)
        if fault is None:
            usable.append(polygon)
        elif polygon:
            texts.append(f"'segmentation'[{number}]: {fault}")
    return usable, texts


def _polygon_fault(polygon: Any, size: Size) -> str | None:
    if type(polygon) is not list or not is_finite(polygon):
        return f"expected finite numbers, got {show(polygon)}"
    if len(polygon) < 6 or len(polygon) % 2:
        count = quantity(len(polygon), "number", "numbers")
        return f"expected x and y of at least 3 points, got {count}"
    xs, ys = polygon[0::2], polygon[1::2]
    width, height = size
    # Drawing comes before clipping, so distant points would take unlimited memory.
    if min(xs) < -width or max(xs) > 2 * width or min(ys) < -height or max(ys) > 2 * height:
        expected = f"expected points at most an image away from its image of {width} x {height}"
        return f"{expected}, got {show(polygon)}"
    if max(xs) == min(xs) or max(ys) == min(ys) or _double_area(xs, ys) == 0:
        return f"expected an area above 0, got {show(polygon)}"
    return None


def _double_area(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return twice the area that a polygon encloses, by the shoelace formula."""
    products = zip(xs, ys[1:] + ys[:1], strict=True), zip(xs[1:] + xs[:1], ys, strict=True)
    return abs(sum(x * y for x, y in products[0]) - sum(x * y for x, y in products[1]))


def rle_faults(rle: dict[str, Any], size: Size | None) -> Iterator[str]:
    """Yield the faults of an RLE that cannot be decoded, in words.

    Args:
        rle: the object, with ``size`` and ``counts``.
        size: (width, height) of its image in pixels; None if unknown.
    """
    counts = rle.get("counts")
    area = None if size is None else size[0] * size[1]
    if size is not None and rle.get("size") != [size[1], size[0]]:
        expected = f"the image's [height, width] {[size[1], size[0]]}"
        yield f"the RLE's 'size': expected {expected}, got {show(rle.get('size'))}"
    elif type(counts) is list:
        natural = all(type(count) is int and count >= 0 for count in counts)
        if not natural or (area is not None and sum(counts) != area):
            text = "expected integers of at least 0 that sum to the image's area"
            yield f"the RLE's 'counts': {text}, got {show(counts)}"
    elif not isinstance(counts, (str, bytes)) or not counts:
        yield f"the RLE's 'counts': expected a list or a string, got {show(counts)}"
    elif area is not None and not is_whole(counts, area):
        expected = f"runs that sum to {area} pixels, the image's area"
        yield f"the RLE's 'counts': expected {expected}, got {show(counts)}"


def is_finite(numbers: Sequence[Any]) -> bool:
    """Return whether all values are numbers, with a sum that is a finite float.

    Args:
        numbers: the values.
    """
    try:
        return math.isfinite(sum(numbers))
    except (TypeError, OverflowError):
        return False
