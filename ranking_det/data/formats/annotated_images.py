"""Annotated images of any format, the faults of their files, and their COCO form.

A format's reader makes an :class:`AnnotatedImage` for each image. :func:`to_coco` turns them into
the content of a COCO JSON.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ranking_det.data.images import read_header
from ranking_det.user_errors import UserError

SHOWN = 10
"""The number of faults that a message shows."""

TOLERATED = 10
TOLERATED_SHARE = 0.05
"""More faults than :data:`TOLERATED` and than this share are refused."""

MAX_NUMBER = 1e9
"""Larger coordinates are faults; areas of them could overflow."""

CIRCLE_POINTS = 36
"""Points of the polygon that stands for a circle or an ellipse."""

Box = tuple[float, float, float, float]  # x, y, width, height
Polygon = list[float]  # x1, y1, x2, y2, ...


class FaultyFile(NamedTuple):
    """A fault of an annotation file.

    Attributes:
        kind: the kind by which faults are counted.
        place: the file, and the line or the object in it.
        text: what is wrong.
    """

    kind: str
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass
class Findings:
    """What the reader of a format left out, and what the user should know about its reading.

    Attributes:
        objects: faults for which an object is left out.
        images: faults for which an image is left out, with all its objects.
        notes: sentences for the log.
    """

    objects: list[FaultyFile] = field(default_factory=list)
    images: list[FaultyFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def skip_object(self, kind: str, place: str, text: str) -> None:
        """Note an object that is left out.

        Args:
            kind: the kind of its fault.
            place: the file, and the line or the object in it.
            text: what is wrong.
        """
        self.objects.append(FaultyFile(kind, place, text))

    def skip_image(self, kind: str, place: str, text: str) -> None:
        """Note an image that is left out.

        Args:
            kind: the kind of its fault.
            place: the file.
            text: what is wrong.
        """
        self.images.append(FaultyFile(kind, place, text))

    def note(self, text: str) -> None:
        """Add a sentence for the log, once.

        Args:
            text: the sentence.
        """
        if text not in self.notes:
            self.notes.append(text)

    def check(self, where: str, num_images: int, num_objects: int) -> None:
        """Refuse a source that would lose too much.

        Args:
            where: the name of the source in messages.
            num_images: the number of images that are kept.
            num_objects: the number of objects that are kept.

        Raises:
            UserError: more than 10 and more than 5 % of the images or objects are left out.
        """
        for noun, faults, kept in (
            ("images", self.images, num_images),
            ("objects", self.objects, num_objects),
        ):
            total = kept + len(faults)
            if len(faults) > max(TOLERATED, TOLERATED_SHARE * total):
                head = f"{where}: {_count_kinds(faults, noun, total)} cannot be read"
                lines = [str(fault) for fault in faults[:SHOWN]]
                raise UserError("\n  ".join([f"{head}; the first {SHOWN}:", *lines]))

    def lines(self, num_images: int, num_objects: int) -> list[str]:
        """Return the notes, and a line for each kind of thing that is left out.

        Args:
            num_images: the number of images that are kept.
            num_objects: the number of objects that are kept.

        Returns:
            The sentences for the log.
        """
        lines = list(self.notes)
        for noun, faults, kept in (
            ("images", self.images, num_images),
            ("objects", self.objects, num_objects),
        ):
            if faults:
                counts = _count_kinds(faults, noun, kept + len(faults))
                lines.append(f"left out {counts}; the first: {faults[0]}")
        return lines


def _count_kinds(faults: Sequence[FaultyFile], noun: str, total: int) -> str:
    kinds = Counter(fault.kind for fault in faults).most_common()
    counts = ", ".join(f"{kind} {count:,}" for kind, count in kinds)
    return f"{len(faults):,} of {total:,} {noun} ({counts})"


@dataclass
class AnnotatedObject:
    """An object of an image.

    Attributes:
        name: the name of its class; None if the file gives none.
        box: x, y, width, height. They may stick out of the image or have no size.
        polygons: the outline of the object; empty for an object with a box only.
        difficult: whether Pascal VOC's flag says that the object is not to be learned.
        crowd: whether the box is around a crowd of objects, as COCO's ``iscrowd`` says.
        normalized: whether coordinates are shares of the image's width and height, not pixels.
        place: the file, and the line or the object in it.
    """

    name: str | None
    box: Box
    polygons: list[Polygon] = field(default_factory=list)
    difficult: bool = False
    crowd: bool = False
    normalized: bool = False
    place: str = ""


@dataclass
class AnnotatedImage:
    """An image and its objects.

    Attributes:
        path: the absolute path of the image file.
        objects: its objects.
        size: width and height in pixels; None to read them from the image file.
    """

    path: str
    objects: list[AnnotatedObject] = field(default_factory=list)
    size: tuple[int, int] | None = None


def extent(polygons: Iterable[Polygon]) -> Box:
    """Return the smallest box around polygons.

    Args:
        polygons: at least one point in total.

    Returns:
        x, y, width, height.
    """
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def area(polygon: Polygon) -> float:
    """Return the area of a polygon by the shoelace formula.

    Args:
        polygon: x1, y1, x2, y2 and so on.

    Returns:
        The area in square pixels.
    """
    xs, ys = polygon[0::2], polygon[1::2]
    return abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))) / 2


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> tuple[Box, Polygon]:
    """Return the box of an ellipse and a polygon of the same area with points next to its edge.

    Args:
        x: the x coordinate of the centre.
        y: the y coordinate of the centre.
        rx: the first radius.
        ry: the second radius.
        angle: the angle from the x axis to the first radius, in radians.

    Returns:
        The exact box, as x, y, width, height; the polygon, cut at the edges of the box.
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


def to_numbers(values: Iterable[Any], limit: float = MAX_NUMBER) -> list[float] | None:
    """Return numbers, or None if a value is not a number or the text of one, or is too large.

    Args:
        values: numbers or texts.
        limit: the largest absolute value.

    Returns:
        The numbers, or None.
    """
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if all(abs(number) <= limit for number in numbers) else None  # no NaN


def common_root(paths: Sequence[str], folder: str) -> str:
    """Return a folder that contains all images: ``folder`` if it does, else their common one.

    Args:
        paths: the absolute paths of the images.
        folder: the preferred folder, an absolute path.

    Returns:
        The absolute path of the folder.
    """
    folders = {os.path.dirname(path) for path in paths}
    if all(os.path.commonpath([folder, other]) == folder for other in folders):
        return folder
    return os.path.commonpath(list(folders))


def to_coco(
    images: Sequence[AnnotatedImage], classes: Sequence[str], root: str, findings: Findings
) -> dict[str, Any]:
    """Return the content of a COCO JSON.

    Ids count from 1. An object with Pascal VOC's flag for difficult objects gets ``ignore: 1``.

    Args:
        images: the images; each object has a class.
        classes: the names of the classes, in the order of their ids.
        root: the folder to which ``file_name`` is relative.
        findings: gets the images that are left out because their size cannot be read.

    Returns:
        Images, annotations and categories; boxes as x, y, width, height in pixels.
    """
    class_ids = {name: index for index, name in enumerate(classes, start=1)}
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": index, "name": name} for name, index in class_ids.items()],
    }
    for image in images:
        size = image.size or _read_size(image.path, findings)
        if size is None:
            continue
        image_id = len(content["images"]) + 1
        name = Path(os.path.relpath(image.path, root)).as_posix()
        entry = {"id": image_id, "file_name": name, "width": size[0], "height": size[1]}
        content["images"].append(entry)
        for obj in image.objects:
            annotation = {
                "id": len(content["annotations"]) + 1,
                "image_id": image_id,
                "category_id": class_ids[obj.name or ""],
                **_in_pixels(obj, size),
            }
            content["annotations"].append(annotation)
    return content


def _read_size(path: str, findings: Findings) -> tuple[int, int] | None:
    try:
        return read_header(path).upright
    except Exception as error:  # the readers of broken files raise many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        findings.skip_image("unreadable image", path, f"cannot be read ({reason})")
        return None


def _in_pixels(obj: AnnotatedObject, size: tuple[int, int]) -> dict[str, Any]:
    scale = size if obj.normalized else (1, 1)
    x, y, width, height = (value * scale[i % 2] for i, value in enumerate(obj.box))
    polygons = [
        [_plain(value * scale[i % 2]) for i, value in enumerate(polygon)]
        for polygon in obj.polygons
    ]
    fields: dict[str, Any] = {
        "bbox": [_plain(value) for value in (x, y, width, height)],
        "area": _plain(sum(map(area, polygons)) if polygons else max(width, 0) * max(height, 0)),
        "iscrowd": int(obj.crowd),
    }
    if polygons:
        fields["segmentation"] = polygons
    if obj.difficult:
        fields["ignore"] = 1
    return fields


def _plain(value: float) -> float:
    """Round to a millionth of a pixel, so that the JSON is short; whole numbers become integers."""
    rounded = round(value, 6)
    return int(rounded) if rounded == int(rounded) else rounded
