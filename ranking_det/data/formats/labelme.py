"""Read LabelMe annotations: a JSON file per image.

The format is that of https://github.com/wkentaro/labelme. Shapes of one label and one ``group_id``
are parts of one object, as in its own converters.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ranking_det.data.coco_json.reader import load_json
from ranking_det.data.formats.annotated_images import (
    AnnotatedImage,
    AnnotatedObject,
    Findings,
    Polygon,
    ellipse,
    extent,
    to_numbers,
)
from ranking_det.data.formats.file_tree import FileTree, nearest_path, split_of
from ranking_det.user_errors import UserError, show

NAME = "LabelMe"


def is_labelme(content: Any) -> bool:
    """Return whether the content of a JSON file is that of LabelMe.

    Args:
        content: the content.

    Returns:
        True if it has a list of shapes.
    """
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def read(
    tree: FileTree, paths: Sequence[str], findings: Findings
) -> dict[str, list[AnnotatedImage]]:
    """Read LabelMe files.

    Args:
        tree: the files of the folder.
        paths: the JSON files; those of other programs are skipped.
        findings: gets the faults and the notes.

    Returns:
        The images by split, which the folder of a file gives, else "all".
    """
    splits: dict[str, list[AnnotatedImage]] = {}
    for path in paths:
        try:
            content = load_json(path, "annotation file")
        except UserError as error:
            findings.skip_image("broken JSON", path, str(error).removeprefix(f"{path}: "))
            continue
        if not is_labelme(content):
            findings.note(f"{path} is not used: it is not one of LabelMe")
            continue
        image_path = _find_image(tree, path, content)
        if image_path is None:
            text = f"no image file {show(content.get('imagePath'))} in {tree.root}"
            findings.skip_image("missing image", path, text)
            continue
        image = AnnotatedImage(image_path, _read_shapes(content["shapes"], path, findings))
        size = to_numbers(content.get(key) or 0 for key in ("imageWidth", "imageHeight"))
        if size is not None and min(size) >= 1:
            image.size = int(size[0]), int(size[1])
        splits.setdefault(split_of(os.path.dirname(tree.relative(path))) or "all", []).append(image)
    return splits


def _find_image(tree: FileTree, path: str, content: Mapping[str, Any]) -> str | None:
    folder, name = os.path.dirname(path), content.get("imagePath")
    if isinstance(name, str) and name:
        image = tree.find_image(name, folder)
        if image is not None:
            return image
    paths = tree.by_stem(os.path.splitext(os.path.basename(path))[0])
    return nearest_path(paths, folder) if paths else None


def _read_shapes(shapes: Sequence[Any], path: str, findings: Findings) -> list[AnnotatedObject]:
    objects: list[AnnotatedObject] = []
    groups: dict[tuple[str, str], AnnotatedObject] = {}
    for index, shape in enumerate(shapes):
        place = f"{path}: shape {index}"
        obj = _read_shape(shape, place, findings)
        if obj is None:
            continue
        group = (obj.name or "", str(shape.get("group_id")))
        if shape.get("group_id") is not None and obj.polygons and group in groups:
            whole = groups[group]
            whole.polygons += obj.polygons
            whole.box = extent(whole.polygons)
            continue
        if obj.polygons:
            groups[group] = obj
        objects.append(obj)
    return objects


def _read_shape(shape: Any, place: str, findings: Findings) -> AnnotatedObject | None:
    label = shape.get("label") if isinstance(shape, dict) else None
    if not isinstance(label, (str, int)) or not str(label).strip():
        findings.skip_object("no class", place, f"expected a 'label', got {show(shape)}")
        return None
    kind = str(shape.get("shape_type") or "polygon")
    if kind in ("point", "points", "line", "linestrip"):
        findings.skip_object(kind, place, f"a {kind} has no area")
        return None
    points = _read_points(shape.get("points"))
    if points is None or not _has_enough(kind, points):
        text = f"expected a polygon, rectangle or circle with points, got {show(kind)}"
        findings.skip_object("malformed shape", place, text)
        return None
    if kind == "mask":
        findings.note("masks that are pixels are read as boxes")
    if kind == "circle":
        radius = math.dist(points[:2], points[2:4])
        box, polygon = ellipse(points[0], points[1], radius, radius)
        return AnnotatedObject(str(label).strip(), box, [polygon], place=place)
    polygons = [points] if kind in ("polygon", "rotation") else []
    return AnnotatedObject(str(label).strip(), extent([points]), polygons, place=place)


def _read_points(points: Any) -> Polygon | None:
    if not isinstance(points, list) or not all(
        isinstance(point, list) and len(point) == 2 for point in points
    ):
        return None
    return to_numbers(value for point in points for value in point)


def _has_enough(kind: str, points: Polygon) -> bool:
    least = {"polygon": 6, "rotation": 6, "rectangle": 4, "mask": 4, "circle": 4}
    return kind in least and len(points) >= least[kind]
