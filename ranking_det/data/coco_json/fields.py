"""Convert the fields of COCO and LVIS JSON to one form, whichever form a tool has written.

Optional fields that are null or empty count as missing. Integers may be written as floats or text,
and flags as true and false. Nothing else is converted: an ambiguous value is a fault. Fields
are checked as columns of all entries, because a column of the right types needs no further work.
Boxes become an array.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_util

from ranking_det.data.coco_json.faults import REFUSED, Faults
from ranking_det.user_errors import show

Entry = dict[str, Any]


def identifier(value: Any) -> int | str:
    """Convert an id: a whole number, also as text or float, to int; other text (a UUID) stays.

    Args:
        value: the value in the file.

    Raises:
        ValueError: it is neither a whole number nor text.
    """
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    if type(value) is str and value.strip():
        digits = value.strip().removeprefix("-")
        # "007" stays text: another entry may have the id "7".
        is_number = len(digits) < 19 and digits.isascii() and digits.isdigit()
        return int(value) if is_number and str(int(digits)) == digits else value
    raise ValueError("an integer or text")


def whole_number(value: Any) -> int:
    """Convert a whole number, which may be a float or text.

    Args:
        value: the value in the file.

    Raises:
        ValueError: it is not a whole number.
    """
    number_read = number(value)
    if not float(number_read).is_integer():
        raise ValueError("an integer")
    return int(number_read)


def number(value: Any) -> int | float:
    """Convert a finite number, which may be text.

    Args:
        value: the value in the file.

    Raises:
        ValueError: it is not a finite number.
    """
    try:
        if type(value) is str:
            value = float(value)
        if type(value) in (int, float) and math.isfinite(value):
            return value
    except (ValueError, OverflowError):
        pass
    raise ValueError("a finite number")


def is_finite_number(value: Any) -> bool:
    """Return whether a value, such as one from a JSON, is an integer or float that is finite.

    Args:
        value: anything.

    Returns:
        False also for True and False, and for an integer that is too large for a float.
    """
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an integer with hundreds of digits
        return False


def text(value: Any) -> str:
    """Convert text, which may be a number.

    Args:
        value: the value in the file.

    Raises:
        ValueError: it is neither text nor a number.
    """
    if type(value) is str:
        return value
    if type(value) in (int, float):
        return str(value)
    raise ValueError("a string")


def flag(value: Any) -> int:
    """Convert a flag to 0 or 1; it may be true, false, a float or text.

    Args:
        value: the value in the file.

    Raises:
        ValueError: it is not a flag.
    """
    if value in (0, 1, "0", "1"):
        return int(value)
    raise ValueError("0 or 1")


def frequency(value: Any) -> str:
    """Return a frequency group of LVIS.

    Args:
        value: the value in the file.

    Raises:
        ValueError: it is not "r", "c" or "f".
    """
    if value not in ("r", "c", "f"):
        raise ValueError("'r', 'c' or 'f'")
    return str(value)


def _exactly(kind: type, expected: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(expected)
        return value

    return check


class Field(NamedTuple):
    """The form of a field.

    Attributes:
        types: the types of values that need no conversion.
        convert: converts other values, or raises ValueError with what was expected.
        values: the allowed values of these types; None for all.
        required: whether an entry without the field is faulty.
        or_missing: whether a value that cannot be converted counts as missing.
    """

    types: frozenset[type]
    convert: Callable[[Any], Any]
    values: frozenset[Any] | None = None
    required: bool = True
    or_missing: bool = False

    def is_normal(self, value: Any) -> bool:
        """Return whether a value needs no conversion.

        Args:
            value: the value in the file.
        """
        return type(value) in self.types and (self.values is None or value in self.values)


_NO_ENTRY: Entry = {}  # replaces an entry that is not an object
_MAX_FLOAT = int(np.finfo(np.float64).max)
_EMPTY: tuple[Any, ...] = (None, "", [])
_INT, _STR, _LIST = frozenset([int]), frozenset([str]), frozenset([list])
_ID = Field(_INT, identifier)
_SIZE = Field(_INT, whole_number)
_NUMBERS = frozenset([int, float])
_LISTED = _exactly(list, "a list")
_FLAG = Field(_INT, flag, values=frozenset([0, 1]), required=False)

FIELDS: dict[str, dict[str, Field]] = {
    "categories": {"id": _ID, "name": Field(_STR, text)},
    "images": {
        "id": _ID,
        "width": _SIZE,
        "height": _SIZE,
        "file_name": Field(_STR, text, required=False),
        "coco_url": Field(_STR, text, required=False),
    },
    "annotations": {
        "id": _ID._replace(required=False),
        "image_id": _ID,
        "category_id": _ID,
        "iscrowd": _FLAG,
        "ignore": _FLAG,
        "area": Field(_NUMBERS, number, required=False, or_missing=True),
    },
    "bbox": {"image_id": _ID, "category_id": _ID, "score": Field(_NUMBERS, number)},
    "segm": {"image_id": _ID, "category_id": _ID, "score": Field(_NUMBERS, number)},
}
"""The fields by section, or by the IoU type of results. Boxes and masks have their own rules."""

LVIS_FIELDS: dict[str, dict[str, Field]] = {
    "categories": {
        "frequency": Field(_STR, frequency, frozenset("rcf")),
        "image_count": Field(_INT, whole_number),
    },
    "images": {
        "neg_category_ids": Field(_LIST, _LISTED),
        "not_exhaustive_category_ids": Field(_LIST, _LISTED),
    },
}


class Section(NamedTuple):
    """The converted entries of a section, also as columns, which are faster to check.

    Attributes:
        name: "categories", "images" or "annotations", or the IoU type of results.
        entries: n entries.
        columns: the n values of each field; None for an entry without the field.
    """

    name: str
    entries: list[Entry]
    columns: dict[str, list[Any]]


def read_section(
    name: str,
    raw: Sequence[Any],
    fields: dict[str, Field],
    faults: Faults,
    conversions: Counter[str],
) -> Section:
    """Convert the fields of the entries of a section to one form.

    Args:
        name: the name of the section.
        raw: the entries in the file; they are not changed.
        fields: the fields to check.
        faults: receives a refusal for each entry that is not an object, lacks a required field or
            has a value that cannot be converted.
        conversions: receives the number of converted values, by field and original type.

    Returns:
        The entries in their order. Entries that need no conversion are shared with the file, the
        others are copies. Refused values are as in the file.
    """
    entries = list(raw)
    if set(map(type, entries)) - {dict}:
        for index, entry in enumerate(raw):
            if type(entry) is not dict:
                message = f"expected an object, got {show(entry)}"
                faults.add(REFUSED, "wrong type", message, name, index)
                entries[index] = _NO_ENTRY
    section, changes = Section(name, entries, {}), defaultdict[int, Entry](dict)
    for key, field in fields.items():
        section.columns[key] = get_column(entries, key)
        if not _is_normal(section.columns[key], field):
            for index, value in _convert_column(section, key, field, faults, conversions):
                changes[index][key] = value
    for index, change in changes.items():
        merged = entries[index] | change
        entries[index] = {key: value for key, value in merged.items() if value is not None}
    return section


def _is_normal(column: Sequence[Any], field: Field) -> bool:
    """Return whether no value of a column needs a conversion."""
    is_typed = set(map(type, column)) <= field.types
    return is_typed and (field.values is None or set(column) <= field.values)


def _convert_column(
    section: Section, key: str, field: Field, faults: Faults, conversions: Counter[str]
) -> Iterator[tuple[int, Any]]:
    """Convert a column in place, and yield each change of an entry by index."""
    column, entries = section.columns[key], section.entries
    to_convert = [index for index, value in enumerate(column) if not field.is_normal(value)]
    if not field.required:
        to_convert = [i for i in to_convert if column[i] is not None or key in entries[i]]
    for index in to_convert:
        value, entry = column[index], entries[index]
        try:
            column[index] = _convert(value, field)
        except ValueError as error:
            place = section.name, index, entry
            if key in entry:
                text = f"{key!r}: {error}, got {show(value)}"
                faults.add(REFUSED, "wrong type", text, *place)
            elif entry is not _NO_ENTRY:
                faults.add(REFUSED, "missing key", f"has no {key!r}", *place)
            continue
        # A UUID stays; a null is dropped.
        is_same = type(column[index]) is type(value) and column[index] == value
        if key in entry and (value is None or not is_same):
            conversions.update(_describe(section.name, key, value, column[index]))
            yield index, column[index]


def _describe(name: str, key: str, value: Any, converted: Any) -> list[str]:
    """Describe the conversion of a value in a line; conversions of empty values need no line."""
    if converted is not None:
        return [f"{name}: {key!r} written as {type(value).__name__}"]
    return [] if value in _EMPTY else [f"{name}: {key!r} is not a number and counts as missing"]


def _convert(value: Any, field: Field) -> Any:
    """Return a value in the form of its field, None for a missing one.

    Raises:
        ValueError: it cannot be converted; the text is what was expected.
    """
    if not field.required and value in _EMPTY:
        return None
    try:
        return field.convert(value)
    except ValueError as error:
        if field.or_missing:
            return None
        raise ValueError(f"expected {error}") from None


def as_floats(column: Sequence[float | None]) -> np.ndarray:
    """Convert a column of numbers to (n,) float64: NaN for None, infinity for too large integers.

    Args:
        column: n numbers or None.
    """
    try:
        return np.array(column, dtype=np.float64)
    except OverflowError:  # an integer of hundreds of digits
        are_huge = [type(value) is int and abs(value) > _MAX_FLOAT for value in column]
        values = [
            math.inf if is_huge else value for value, is_huge in zip(column, are_huge, strict=True)
        ]
        return np.array(values, dtype=np.float64)


def get_column(entries: Sequence[Entry], key: str) -> list[Any]:
    """Return the values of a key, None for an entry without it.

    Args:
        entries: the entries.
        key: the key.
    """
    try:
        return list(map(itemgetter(key), entries))  # twice as fast, if all entries have the key
    except KeyError:
        return [entry.get(key) for entry in entries]


def read_fields(content: Mapping[str, Any], data_name: str, name: str, *keys: str) -> Section:
    """Read some fields of a section by the rules of the reader, without its other checks.

    Args:
        content: the content of an annotation file; it is not changed.
        data_name: its name in messages.
        name: the name of the section, which may be missing or null.
        *keys: the fields.

    Returns:
        The entries and the columns.

    Raises:
        UserError: an entry is not an object, lacks a required field or has a wrong value.
    """
    faults, fields = Faults(data_name), {key: FIELDS[name][key] for key in keys}
    section = read_section(name, content.get(name) or [], fields, faults, Counter())
    faults.check()
    return section


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
