"""Annotated images of any format, and their COCO form.

A format's reader makes an :class:`AnnotatedImage` for each image, and raises a :class:`FaultError`
for what it cannot read. :func:`to_coco` turns the images into the content of a COCO JSON.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ranking_det.data.coco_json.faults import CONVERTED_FROM, Fault, Faults

MAX_NUMBER = 1e9
"""Larger coordinates are faults, because their areas could overflow."""

CIRCLE_POINTS = 36
"""Points of the polygon that approximates a circle or an ellipse."""

Box = tuple[float, float, float, float]  # x, y, width, height
Polygon = list[float]  # x1, y1, x2, y2, ...
Size = tuple[int, int]  # width, height


class FaultError(Exception):
    """A fault that causes an object or an image to be left out.

    Args:
        kind: the kind of fault; faults are counted by kind.
        text: what is wrong.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@contextlib.contextmanager
def counting(
    faults: Faults, action: str, file: str, place: str = "", image: str = ""
) -> Iterator[None]:
    """Record a :class:`FaultError` that the body of the ``with`` statement raises, and continue.

    Args:
        faults: receives the fault.
        action: ``LEFT_OUT`` for an object, ``SKIPPED`` for an image.
        file: the annotation file.
        place: the line or the object in the file; "" for the whole file.
        image: the image of the object; "" if the fault is not about an object.
    """
    try:
        yield
    except FaultError as error:
        faults.add_row(Fault(file, place, "", image, error.kind, action, str(error)))


@dataclass
class AnnotatedObject:
    """An object of an image.

    Attributes:
        name: the name of its class; None if the file gives none.
        box: x, y, width, height. The box may stick out of the image or have no size.
        polygons: the outline of the object; empty for an object with a box only.
        difficult: whether Pascal VOC's flag excludes the object from training.
        place: the file, and the line or the object in it, for messages.
    """

    name: str | None
    box: Box
    polygons: list[Polygon] = field(default_factory=list)
    difficult: bool = False
    place: str = ""


@dataclass
class AnnotatedImage:
    """An image and its objects.

    Attributes:
        path: the absolute path of the image file.
        objects: its objects.
        size: width and height in pixels; None to read them from the image file.
        normalized: whether coordinates are fractions of the width and height, not pixels.
    """

    path: str
    objects: list[AnnotatedObject] = field(default_factory=list)
    size: Size | None = None
    normalized: bool = False


def extent(polygons: Iterable[Polygon]) -> Box:
    """Return the smallest box around polygons.

    Args:
        polygons: the polygons, with at least one point in total.
    """
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _area(polygon: Polygon) -> float:
    """Return the area of a polygon by the shoelace formula."""
    xs, ys = polygon[0::2], polygon[1::2]
    return abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))) / 2


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> tuple[Box, Polygon]:
    """Return the box of an ellipse and a polygon of the same area with points close to its edge.

    Args:
        x: the x coordinate of the center.
        y: the y coordinate of the center.
        rx: the first radius.
        ry: the second radius.
        angle: the angle from the x axis to the first radius, in radians.

    Returns:
        The exact box, as x, y, width, height; the polygon, clipped to the box.
    """
    cosine, sine = math.cos(angle), math.sin(angle)
    half_width = math.hypot(rx * cosine, ry * sine)
    half_height = math.hypot(rx * sine, ry * cosine)
    # A regular polygon with n corners on the circle has sin(2 pi / n) / (2 pi / n) of its area.
    step = 2 * math.pi / CIRCLE_POINTS
    scale = math.sqrt(step / math.sin(step))
    polygon: Polygon = []
    for i in range(CIRCLE_POINTS):
        along, across = scale * rx * math.cos(i * step), scale * ry * math.sin(i * step)
        dx, dy = along * cosine - across * sine, along * sine + across * cosine
        polygon.append(x + min(max(dx, -half_width), half_width))
        polygon.append(y + min(max(dy, -half_height), half_height))
    return (x - half_width, y - half_height, 2 * half_width, 2 * half_height), polygon


def to_numbers(values: Iterable[Any]) -> list[float] | None:
    """Convert values to numbers; return None if any is not a number or is too large.

    Args:
        values: numbers, or strings of numbers.
    """
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        return None
    # The comparison is False for NaN.
    return numbers if all(abs(number) <= MAX_NUMBER for number in numbers) else None


def given_size(width: Any, height: Any) -> Size | None:
    """Return the image size from an annotation file; None if it is missing or unusable.

    Args:
        width: the width in the file, None if it is missing.
        height: the height in the file.
    """
    size = to_numbers([width or 0, height or 0])
    return (int(size[0]), int(size[1])) if size is not None and min(size) >= 1 else None


def to_coco(
    images: Sequence[AnnotatedImage], classes: Sequence[str], folder: str
) -> tuple[dict[str, Any], str]:
    """Return the content of a COCO JSON and the folder to which ``file_name`` is relative.

    Ids count from 1. An object with Pascal VOC's flag for difficult objects gets ``ignore: 1``.
    Each annotation keeps the place of its object in the source file, for messages.

    Args:
        images: the images; each has a size, and each object a class.
        classes: the names of the classes, in the order of their ids.
        folder: the folder to prefer. If images lie outside it, their common folder is returned.
    """
    folders = {os.path.dirname(image.path) for image in images}
    root = os.path.commonpath(list(folders))
    root = folder if os.path.commonpath([folder, root]) == folder else root
    class_ids = {name: index for index, name in enumerate(classes, start=1)}
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, image in enumerate(images, start=1):
        width, height = image.size or (0, 0)
        name = Path(os.path.relpath(image.path, root)).as_posix()
        entries.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for obj in image.objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": class_ids[obj.name or ""],
                    **_in_pixels(obj, (width, height) if image.normalized else (1, 1)),
                    CONVERTED_FROM: obj.place,
                }
            )
    categories = [{"id": index, "name": name} for name, index in class_ids.items()]
    content = {"images": entries, "annotations": annotations, "categories": categories}
    return content, root


def _in_pixels(obj: AnnotatedObject, scale: Size) -> dict[str, Any]:
    x, y, width, height = (value * scale[i % 2] for i, value in enumerate(obj.box))
    polygons = [
        [_integer_if_whole(value * scale[i % 2]) for i, value in enumerate(polygon)]
        for polygon in obj.polygons
    ]
    fields: dict[str, Any] = {
        "bbox": [_integer_if_whole(value) for value in (x, y, width, height)],
        "area": _integer_if_whole(
            sum(map(_area, polygons)) if polygons else max(width, 0) * max(height, 0)
        ),
        "iscrowd": 0,
    }
    if polygons:
        fields["segmentation"] = polygons
    if obj.difficult:
        fields["ignore"] = 1
    return fields


def _integer_if_whole(value: float) -> float:
    """Round to a millionth of a pixel, so that the JSON is short; whole numbers become integers."""
    rounded = round(value, 6)
    return int(rounded) if rounded == int(rounded) else rounded
