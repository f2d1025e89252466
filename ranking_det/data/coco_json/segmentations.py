"""Rules for the masks of COCO and LVIS JSON: polygons, and run-length encodings (RLE).

An RLE counts the pixels of height x width, column after column: first those outside the mask, then
those inside, and so on. Compressed, as pycocotools writes it, a number is one or more characters
from chr(48) on: 5 bits each, the lowest first, bit 0x20 if another follows, and the sign in bit
0x10 of the last. From the fourth run on it is the difference to the run two before. The libraries
that decode compressed masks do not look whether they are whole; :func:`are_whole` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ranking_det.data.coco_json.rules import Context, Fault, Size, is_finite
from ranking_det.user_errors import show

# Masks at once. Of 120 characters each they take a fifth of the time of a loop over the numbers of
# each mask by itself; more of them leave the processor's cache.
BATCH = 128
# 34 bits and a sign, more than the pixels of any image.
MAX_CHARACTERS = 7
_BASE, _MORE, _VALUE, _SIGN = 48, 0x20, 0x1F, 0x10
_CHUNK = 8192  # compressed masks collected before they are decoded


def segmentation(annotation: dict[str, Any], context: Context) -> Sequence[Fault]:
    """The mask of an annotation, if it has one, can be drawn."""
    mask = annotation.get("segmentation")
    if not mask or not context.masks:
        return ()
    return list(_mask_faults(mask, context.sizes.get(annotation["image_id"])))


def result_segmentation(result: dict[str, Any], context: Context) -> Sequence[Fault]:
    """The mask of a result is a compressed RLE."""
    mask = result["segmentation"]
    faults = list(_mask_faults(mask, context.sizes.get(result["image_id"])))
    if not faults and type(mask["counts"]) is not str:
        text = f"must be a string, as a result's RLE is compressed, got {show(mask)}"
        faults = [Fault("segmentation", f"the RLE's 'counts' {text}")]
    return faults


def _mask_faults(mask: Any, size: Size | None) -> Iterator[Fault]:
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
        yield Fault("segmentation", f"'segmentation' {text}, got {show(mask)}")
        return
    for index, polygon in enumerate(mask):
        place = f"'segmentation'[{index}]"
        if len(polygon) < 6 or len(polygon) % 2:
            text = f"has {len(polygon)} numbers; a polygon has x and y of at least 3 points"
            yield Fault("segmentation", f"{place} {text}")
        elif not is_finite(polygon):
            yield Fault("segmentation", f"{place} must hold finite numbers only")
        elif size is not None and _is_far(polygon, size):
            text = f"is more than an image away from its image of {size[0]} x {size[1]}"
            yield Fault("segmentation", f"{place} {text}: {show(polygon)}")


def _rle_faults(rle: dict[str, Any], size: Size | None) -> Iterator[Fault]:
    counts = rle.get("counts")
    if size is not None and rle.get("size") != [size[1], size[0]]:
        text = f"must be the image's [height, width] {[size[1], size[0]]}"
        yield Fault("segmentation", f"the RLE's 'size' {text}, got {show(rle.get('size'))}")
    elif type(counts) is list:
        natural = all(type(count) is int and count >= 0 for count in counts)
        if not natural or (size is not None and sum(counts) != size[0] * size[1]):
            text = "the RLE's 'counts' must be integers that sum to the image's area"
            yield Fault("segmentation", text)
    elif not isinstance(counts, (str, bytes)) or not counts:
        text = f"the RLE's 'counts' must be a list or a string, got {show(counts)}"
        yield Fault("segmentation", text)


def _is_far(polygon: list[float], size: Size) -> bool:
    """Whether a polygon, which is drawn before it is cut, would need memory without end."""
    xs, ys = polygon[0::2], polygon[1::2]
    width, height = size
    return min(xs) < -width or max(xs) > 2 * width or min(ys) < -height or max(ys) > 2 * height


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
        masks = {}
        for index, entry in enumerate(entries[start : start + _CHUNK], start=start):
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


def are_whole(counts: Sequence[str | bytes], areas: Sequence[int]) -> np.ndarray:
    """Whether compressed masks have runs of at least 0 pixels that sum to their image's area.

    Args:
        counts: "counts" of n masks.
        areas: height x width of each.

    Returns:
        (n,) bool.
    """
    parts = [
        _are_whole(counts[start : start + BATCH], areas[start : start + BATCH])
        for start in range(0, len(counts), BATCH)
    ]
    return np.concatenate([np.ones(0, dtype=bool), *parts])


def _are_whole(counts: Sequence[str | bytes], areas: Sequence[int]) -> np.ndarray:
    """The same; masks of C characters and V runs in all."""
    texts = [_characters(text) for text in counts]
    lengths = np.array([len(text) for text in texts])
    stops = lengths.cumsum()
    starts = stops - lengths
    characters = np.frombuffer(b"".join(texts), np.uint8) - _BASE  # (C,); what is below 48 wraps
    faulty = characters >= 2 * _MORE
    ends = (characters & _MORE) == 0
    faulty[stops - 1] |= ~ends[stops - 1]
    ends[stops - 1] = True  # lest the next mask be misread too
    values, width = _numbers(characters, np.flatnonzero(ends))  # (V,)
    last = np.cumsum(ends)[stops - 1]
    num_runs = np.diff(last, prepend=0)
    first = last - num_runs
    runs = _undo_differences(values, first, num_runs)
    whole = (np.add.reduceat(runs, first) == areas) & (np.minimum.reduceat(runs, first) >= 0)
    short = np.maximum.reduceat(width, first) <= MAX_CHARACTERS
    return whole & short & ~np.logical_or.reduceat(faulty, starts)


def _characters(counts: str | bytes) -> bytes:
    """At least one, and only a wrong one in the place of what is no ASCII."""
    if isinstance(counts, bytes):
        return counts or b" "
    return counts.encode() if counts and counts.isascii() else b" "


def _numbers(characters: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers whose last characters are given, and how many characters each has."""
    width = np.diff(ends, prepend=-1)
    begin = ends - width + 1
    place = np.arange(len(characters)) - np.repeat(begin, width)
    # Faulty masks may overflow, without harm: others differ from them by sums modulo 2 ** 64.
    shift = 5 * np.minimum(place, MAX_CHARACTERS)
    values = np.add.reduceat((characters & _VALUE).astype(np.int64) << shift, begin)
    negative = (characters[ends] & _SIGN) != 0
    values -= negative * (np.int64(1) << 5 * np.minimum(width, MAX_CHARACTERS))
    return values, width


def _undo_differences(values: np.ndarray, first: np.ndarray, num_runs: np.ndarray) -> np.ndarray:
    """Runs (V,): each but the first three of a mask is the sum of its number and the run before."""
    mask = np.repeat(np.arange(len(first)), num_runs)
    index = np.arange(len(values)) - first[mask]
    runs = values.copy()
    for parity in (1, 0):
        chain = np.flatnonzero((index % 2 == parity) & (index > 0))
        total = values[chain].cumsum()
        begin = np.flatnonzero(np.diff(mask[chain], prepend=-1))
        length = np.diff(begin, append=len(chain))
        runs[chain] = total - np.repeat((total - values[chain])[begin], length)
    return runs
