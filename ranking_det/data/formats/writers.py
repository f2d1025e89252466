"""Write data sets as COCO JSON, YOLO or Pascal VOC, with links to the images.

    COCO         annotations/instances_train.json    train/...
    YOLO         data.yaml    labels/train/...txt    images/train/...
    Pascal VOC   Annotations/...xml    ImageSets/Main/train.txt    JPEGImages/...

The output folder appears only when it is complete; see :func:`new_folder`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import uuid
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, SubElement

import yaml

from ranking_det.data.coco_json.faults import Faults
from ranking_det.data.coco_json.fields import read_fields
from ranking_det.data.coco_json.image_files import (
    UNREADABLE,
    UNROTATED,
    find_images,
    loose_name,
)
from ranking_det.data.coco_json.reader import Annotations
from ranking_det.data.formats.annotated_images import Box, Polygon, Size, extent
from ranking_det.data.formats.coco_files import CocoSplit
from ranking_det.files import make_folder, write_whole
from ranking_det.user_errors import UserError, quantity

_TOLERANCE = 0.5  # pixels by which the box around a polygon may differ from the object's box
_MIN_SIDE = 1.001  # pixels; Pascal VOC cannot distinguish a side of one pixel from a side of zero


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Write a folder that appears only once it is complete.

    Args:
        path: the folder, which must not exist.

    Yields:
        The temporary folder to write to. It is renamed at the end, or removed after an error.

    Raises:
        UserError: the path exists, or its parent is not a writable folder.
    """
    final = Path(os.path.abspath(path))
    if os.path.lexists(final):
        raise UserError(f"{path} already exists; remove it or choose another folder")
    parent = next(folder for folder in final.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{path}: {parent} is not a writable folder")
    make_folder(final.parent)
    partial = final.with_name(f".{final.name}.partial-{uuid.uuid4().hex[:8]}")
    make_folder(partial)
    try:
        yield partial
        partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _place_image(source: str, target: Path, copy: bool) -> None:
    """Link to an image, or copy it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if copy:
        shutil.copyfile(source, target)
    else:
        target.symlink_to(os.path.realpath(source))


def write_coco(
    folder: Path, split: str, part: CocoSplit, data_name: str, *, copy: bool, allow_outside: bool
) -> list[str]:
    """Write a split as COCO JSON. Only the names of the images change.

    Args:
        folder: the folder of the data set.
        split: the name of the split.
        part: the content of the JSON and the folder of its images.
        data_name: the name of the source in messages.
        copy: whether to copy the images.
        allow_outside: accept images outside the folder of the images.

    Returns:
        Sentences about the images.

    Raises:
        UserError: images have no file, or lie outside their folder.
    """
    keys, faults = ("id", "file_name", "coco_url"), Faults(data_name)
    entries = read_fields(part.content, data_name, "images", *keys).entries
    limits: dict[str, Any] = {"allow_outside": allow_outside, "max_headers": 0}
    paths = find_images(entries, part.image_root, faults, **limits)
    faults.check()
    images = []
    placed: dict[Path, str] = {}
    for entry, path in zip(part.content["images"], paths, strict=True):
        target = folder / split / _name_inside(path, part.image_root)
        while (
            placed.get(target, path) != path
        ):  # an image from outside the folder has taken this name
            target = target.with_name(f"_{target.name}")
        if target not in placed:
            _place_image(path, target, copy)
        placed[target] = path
        images.append({**entry, "file_name": target.relative_to(folder / split).as_posix()})
    (folder / "annotations").mkdir(exist_ok=True)
    text = json.dumps({**part.content, "images": images})  # NaN stays, for the reader to report
    write_whole(folder / "annotations" / f"instances_{split}.json", f"{text}\n")
    return [f"{split}: {line}" for line in faults.summary()]


def _name_inside(path: str, image_root: str) -> str:
    name = os.path.relpath(path, image_root)
    return os.path.basename(path) if name.startswith("..") else name


class _Object(NamedTuple):
    name: str
    box: Box  # clipped to the image
    polygons: list[Polygon]
    ignored: bool


class _NamedImage(NamedTuple):
    split: str
    path: str
    name: str
    size: Size
    objects: list[_Object]


def _named_images(parts: Mapping[str, Annotations], counts: Counter[str]) -> list[_NamedImage]:
    """Return the readable images of all splits, with names that are unique without extension.

    Two entries of one file in a split become one image. ``counts`` receives the numbers of masks
    that are left out and of boxes that are clipped.
    """
    images: list[_NamedImage] = []
    names = _flat_names({path for part in parts.values() for path in part.image_files})
    for split, part in parts.items():
        unreadable = {row.image for row in part.faults.rows if row.kind == UNREADABLE}
        classes = {category["id"]: category["name"] for category in part.categories}
        by_path: dict[str, _NamedImage] = {}
        by_id: dict[Any, _NamedImage] = {}
        for entry, path in zip(part.images, part.image_files, strict=True):
            if entry["id"] not in unreadable:
                size = entry["width"], entry["height"]
                image = _NamedImage(split, path, names[path], size, [])
                by_id[entry["id"]] = by_path.setdefault(path, image)
        for annotation in part.annotations:
            if annotation["image_id"] in by_id:
                image, mask = by_id[annotation["image_id"]], annotation.get("segmentation")
                ignored, is_rle = bool(annotation.get("iscrowd")), isinstance(mask, dict)
                if is_rle and not ignored:
                    counts["RLE masks left out; their boxes are kept"] += 1
                polygons = [_clip(polygon, image.size) for polygon in mask or [] if not is_rle]
                x, y, width, height = annotation["bbox"]
                corners = [x, y, x + width, y + height]
                x1, y1, x2, y2 = clipped = _clip(corners, image.size)
                # Ignore rounding errors: they do not mean that a box sticks out.
                if max(abs(a - b) for a, b in zip(corners, clipped, strict=True)) > 1e-3:
                    counts["boxes clipped to their image"] += 1
                box, name = (x1, y1, x2 - x1, y2 - y1), classes[annotation["category_id"]]
                image.objects.append(_Object(name, box, polygons, ignored))
        images += by_path.values()
    return images


def _clip(points: Sequence[float], size: Size) -> list[float]:
    return [min(max(value, 0.0), size[i % 2]) for i, value in enumerate(points)]


def _flat_names(image_files: Iterable[str]) -> dict[str, str]:
    """Map each image path to a file name that is unique in one folder.

    Names that occur twice get their parent folders, and a number if that is not enough.
    """
    paths = sorted(image_files)
    stems = Counter(loose_name(Path(path).stem) for path in paths)
    names: dict[str, str] = {}
    used_names: set[str] = set()
    root = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    for path in paths:
        stem, suffix = os.path.splitext(os.path.basename(path))
        if stems[loose_name(stem)] > 1:
            stem = os.path.splitext(os.path.relpath(path, root))[0].replace(os.sep, "_")
        candidate, number = stem, 2
        while loose_name(candidate) in used_names:
            candidate, number = f"{stem}_{number}", number + 1
        used_names.add(loose_name(candidate))
        names[path] = candidate + suffix
    return names


def write_yolo(
    folder: Path, parts: Mapping[str, Annotations], classes: Sequence[str], *, copy: bool
) -> list[str]:
    """Write a YOLO data set.

    The labels are polygons if every object has polygons whose extent matches its box to within half
    a pixel; otherwise the labels are boxes. Crowds and difficult objects are left out: YOLO has no
    flag for them.

    Args:
        folder: the folder of the data set.
        parts: the checked annotations by split, with masks and the paths of the images.
        classes: the names of the classes in the order of their indices.
        copy: whether to copy the images.

    Returns:
        Sentences about what YOLO cannot represent.

    Raises:
        UserError: boxes are in pixels before the EXIF rotation, which YOLO programs apply first.
    """
    notes = [row for part in parts.values() for row in part.faults.rows if row.kind == UNROTATED]
    if notes:
        images = quantity(len(notes), "image", "images")
        text = f"YOLO labels cannot express this ({images}); use --to coco or --to voc"
        raise UserError(f"{notes[0]}; {text}")
    counts: Counter[str] = Counter()
    images = _named_images(parts, counts)
    objects = [obj for image in images for obj in image.objects if not obj.ignored]
    num_fitting = sum(map(_has_fitting_polygons, objects))
    lines, as_polygons = [], bool(objects) and num_fitting == len(objects)
    if not as_polygons and any(obj.polygons for obj in objects):
        lines.append(
            f"boxes are written, not polygons: {len(objects) - num_fitting:,} of {len(objects):,} "
            "objects have no polygon, or one that does not fit their box"
        )
    indices = {name: index for index, name in enumerate(classes)}
    for split, path, name, size, image_objects in images:
        _place_image(path, folder / "images" / split / name, copy)
        text = ""
        for obj in image_objects:
            if obj.ignored:
                counts["crowds or difficult objects left out because YOLO cannot mark them"] += 1
                continue
            x, y, width, height = obj.box
            centered = [x + width / 2, y + height / 2, width, height]
            values = _join(obj.polygons) if as_polygons else centered
            fractions = (f"{value / size[i % 2]:.8g}" for i, value in enumerate(values))
            text += " ".join([str(indices[obj.name]), *fractions]) + "\n"
        label = folder / "labels" / split / f"{os.path.splitext(name)[0]}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(text, encoding="utf-8")
    content: dict[str, Any] = {split: f"images/{split}" for split in parts}
    content |= {"nc": len(classes), "names": dict(enumerate(classes))}
    text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
    (folder / "data.yaml").write_text(text, encoding="utf-8")
    return lines + [f"{text}: {count:,}" for text, count in counts.items()]


def _has_fitting_polygons(obj: _Object) -> bool:
    pairs = zip(obj.box, extent(obj.polygons), strict=True) if obj.polygons else [(0, math.inf)]
    return all(abs(a - b) <= _TOLERANCE for a, b in pairs)


def _join(polygons: Sequence[Polygon]) -> Polygon:
    """Return one polygon that covers the same area: lines of zero width connect its parts."""
    first = polygons[0][:2]
    joined: Polygon = list(polygons[0])
    for polygon in polygons[1:]:
        joined += [*first, *polygon, *polygon[:2], *first]
    return joined


def write_voc(
    folder: Path, parts: Mapping[str, Annotations], classes: Sequence[str], *, copy: bool
) -> list[str]:
    """Write a Pascal VOC data set. Crowds and ignored objects are flagged as difficult.

    Coordinates are rounded to whole pixels, which moves an edge by at most half a pixel. Only boxes
    of about a pixel get decimals, because their rounded corners would coincide.

    Args:
        folder: the folder of the data set.
        parts: the checked annotations by split, with the paths of the images.
        classes: the names of the classes; the format has no list of them.
        copy: whether to copy the images.

    Returns:
        Sentences about what Pascal VOC cannot represent.
    """
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    counts: Counter[str] = Counter()
    stems: dict[str, list[str]] = {split: [] for split in parts}
    unused_classes = dict.fromkeys(classes)
    for image in _named_images(parts, counts):
        stem = os.path.splitext(image.name)[0]
        stems[image.split].append(stem)
        xml_file = folder / "Annotations" / f"{stem}.xml"
        if xml_file.exists():  # trainval has the images of train and val again
            continue
        for obj in image.objects:
            unused_classes.pop(obj.name, None)
            if obj.polygons:
                counts["masks left out because Pascal VOC has only boxes"] += 1
        _place_image(image.path, folder / "JPEGImages" / image.name, copy)
        tree = ElementTree.ElementTree(_voc_element(image))
        ElementTree.indent(tree)
        tree.write(xml_file, encoding="utf-8")
    for split, names in stems.items():
        text = "".join(f"{stem}\n" for stem in names)
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(text, encoding="utf-8")
    if unused_classes:
        text = f"classes left out because they have no objects ({next(iter(unused_classes))!r})"
        counts[text] = len(unused_classes)
    return [f"{text}: {count:,}" for text, count in counts.items()]


def _voc_element(image: _NamedImage) -> Element:
    width, height = image.size
    content: dict[str, Any] = {
        "folder": "JPEGImages",
        "filename": image.name,
        "size": {"width": width, "height": height, "depth": 3},
        "segmented": 0,
    }
    root = _add(Element("annotation"), content)
    for obj in image.objects:
        edges = [_voc_edges(*obj.box[axis::2]) for axis in (0, 1)]
        corners = (edges[0][0], edges[1][0], edges[0][1], edges[1][1])
        texts = [f"{v:.4f}" if isinstance(v, float) else v for v in corners]
        content = {"name": obj.name, "pose": "Unspecified", "truncated": 0}
        content["difficult"] = int(obj.ignored)
        content["bndbox"] = dict(zip(("xmin", "ymin", "xmax", "ymax"), texts, strict=True))
        _add(SubElement(root, "object"), content)
    return root


def _add(parent: Element, content: Mapping[str, Any]) -> Element:
    """Add an element for each entry of a mapping, whose values may be mappings."""
    for tag, value in content.items():
        element = SubElement(parent, tag)
        if isinstance(value, dict):
            _add(element, value)
        else:
            element.text = str(value)
    return parent


def _voc_edges(start: float, length: float) -> tuple[float, float]:
    """Return the first and the last pixel of a side, which count from 1."""
    end = start + length
    if round(end) > round(start) + 1:
        return (round(start) + 1, round(end))
    widened = max(_MIN_SIDE - length, 0.0) / 2
    return float(start - widened + 1), float(end + widened)


WRITERS = {"yolo": write_yolo, "voc": write_voc}
"""Functions that write checked annotations, by the short name of the format."""
