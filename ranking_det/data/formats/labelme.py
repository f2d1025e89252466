"""Read LabelMe annotations: a JSON file per image.

The format is that of https://github.com/wkentaro/labelme. Polygons and circles with the same label
and the same ``group_id`` are parts of one object, as in LabelMe's own converters.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ranking_det.data.coco_json.faults import LEFT_OUT, SKIPPED, Faults
from ranking_det.data.coco_json.reader import load_json
from ranking_det.data.formats.annotated_images import (
    AnnotatedImage,
    AnnotatedObject,
    FaultError,
    Polygon,
    counting,
    ellipse,
    extent,
    given_size,
    to_numbers,
)
from ranking_det.data.formats.file_tree import FileTree, nearest_path, split_of
from ranking_det.user_errors import UserError, show

NAME = "LabelMe"
_MIN_COORDINATES = {"polygon": 6, "rotation": 6, "rectangle": 4, "mask": 4, "circle": 4}


def is_labelme(content: Any) -> bool:
    """Return whether a JSON file is a LabelMe file, which has a list of shapes.

    Args:
        content: the content of the file.
    """
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def read(tree: FileTree, paths: Sequence[str], faults: Faults) -> dict[str, list[AnnotatedImage]]:
    """Read LabelMe files.

    Args:
        tree: the files of the folder.
        paths: the JSON files; those of other programs are skipped.
        faults: receives what is left out, and remarks.

    Returns:
        The images by split. The folder of their file names the split; "all" if it names none.
    """
    splits: dict[str, list[AnnotatedImage]] = {}
    for path in paths:
        with counting(faults, SKIPPED, path):
            image = _read_file(tree, path, faults)
            if image is not None:
                split = split_of(os.path.dirname(tree.relative(path))) or "all"
                splits.setdefault(split, []).append(image)
    return splits


def _read_file(tree: FileTree, path: str, faults: Faults) -> AnnotatedImage | None:
    """Read a JSON file; return None if it is not a LabelMe file."""
    try:
        content = load_json(path, "annotation file")
    except UserError as error:
        raise FaultError("broken JSON", str(error).removeprefix(f"{path}: ")) from None
    if not is_labelme(content):
        faults.remark(f"{path} is not used: it is not a LabelMe file")
        return None
    image_path = _find_image(tree, path, content)
    if image_path is None:
        text = f"no image file {show(content.get('imagePath'))} in {tree.root}"
        raise FaultError("missing image", text)
    size = given_size(content.get("imageWidth"), content.get("imageHeight"))
    image = AnnotatedImage(image_path, size=size)
    groups: dict[tuple[str | None, str], AnnotatedObject] = {}
    for index, shape in enumerate(content["shapes"]):
        with counting(faults, LEFT_OUT, path, f"shape {index}", image_path):
            obj = _read_shape(shape, faults)
            obj.place = f"{path}, shape {index}"
            group = obj.name, str(shape.get("group_id"))
            if obj.polygons and shape.get("group_id") is not None and group in groups:
                merged = groups[group]
                merged.polygons += obj.polygons
                merged.box = extent(merged.polygons)
                continue
            if obj.polygons:
                groups[group] = obj
            image.objects.append(obj)
    return image


def _find_image(tree: FileTree, path: str, content: Mapping[str, Any]) -> str | None:
    folder, name = os.path.dirname(path), content.get("imagePath")
    image = tree.find_image(name, folder) if isinstance(name, str) else None
    stem = os.path.splitext(os.path.basename(path))[0]
    return image or nearest_path(tree.by_stem(stem), folder)


def _read_shape(shape: Any, faults: Faults) -> AnnotatedObject:
    """Read a shape.

    Raises:
        FaultError: it has no class or no area.
    """
    label = shape.get("label") if isinstance(shape, dict) else None
    if not isinstance(label, (str, int)) or not str(label).strip():
        raise FaultError("no class", f"expected a 'label', got {show(shape)}")
    kind = str(shape.get("shape_type") or "polygon")
    if kind in ("point", "points", "line", "linestrip"):
        raise FaultError(kind, f"a {kind} has no area")
    points = _read_points(shape.get("points"))
    if points is None or len(points) < _MIN_COORDINATES.get(kind, math.inf):
        text = f"expected a polygon, rectangle or circle with points, got {show(kind)}"
        raise FaultError("malformed shape", text)
    if kind == "mask":
        faults.remark("pixel masks are read as boxes")
    box, polygons = extent([points]), ([points] if kind in ("polygon", "rotation") else [])
    if kind == "circle":
        radius = math.dist(points[:2], points[2:4])
        box, polygon = ellipse(points[0], points[1], radius, radius)
        polygons = [polygon]
    return AnnotatedObject(str(label).strip(), box, polygons)


def _read_points(points: Any) -> Polygon | None:
    if not isinstance(points, list):
        return None
    if not all(isinstance(point, list) and len(point) == 2 for point in points):
        return None
    return to_numbers(value for point in points for value in point)
