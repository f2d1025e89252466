"""Write data sets as COCO JSON, YOLO or Pascal VOC, with links to the images.

    COCO         annotations/instances_train.json    train/...
    YOLO         data.yaml    labels/train/...txt    images/train/...
    Pascal VOC   Annotations/...xml    ImageSets/Main/train.txt    JPEGImages/...

A folder gets its name when it is complete: see :func:`new_folder`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import yaml

from ranking_det.data.formats.annotated_images import (
    AnnotatedImage,
    AnnotatedObject,
    Box,
    Findings,
    Polygon,
    extent,
)
from ranking_det.data.formats.coco_objects import LooseFinder, image_entries
from ranking_det.data.formats.file_tree import loose_name
from ranking_det.data.images import read_header
from ranking_det.files import write_whole
from ranking_det.user_errors import UserError

Images = Mapping[str, Sequence[AnnotatedImage]]
"""The images by split; coordinates are in pixels."""

_AGREEMENT = 0.5  # pixels by which the box around a polygon may differ from the object's box
_LEAST_SIDE = 1.001  # pixels; in Pascal VOC, a box of one pixel is written like one of no size


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Make a folder that exists only when it is complete.

    Args:
        path: the folder, which must not exist.

    Yields:
        The temporary folder to write to. It is renamed at the end, or removed after an error.

    Raises:
        UserError: the path exists, or its parent is not a folder that can be written to.
    """
    final = Path(os.path.abspath(path))
    if os.path.lexists(final):
        raise UserError(f"{path} exists; give another folder, or remove it")
    parent = next(folder for folder in final.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{path}: {parent} is not a folder that can be written to")
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f".{final.name}.partial-{uuid.uuid4().hex[:8]}")
    partial.mkdir()
    try:
        yield partial
        partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def place_image(source: str, target: Path, *, copy: bool) -> None:
    """Make a link to an image, or a copy.

    Args:
        source: the absolute path of the image.
        target: the link or copy; its folder is made.
        copy: whether to copy.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if copy:
        shutil.copyfile(source, target)
    else:
        target.symlink_to(os.path.realpath(source))


def flat_names(images: Images) -> dict[str, str]:
    """Return file names for one folder; no two have the same stem.

    Args:
        images: the images by split.

    Returns:
        The name by the path of the image: its own if that is unique, else with those of its
        folders, or a number.
    """
    paths = sorted({image.path for members in images.values() for image in members})
    stems = Counter(loose_name(Path(path).stem) for path in paths)
    names: dict[str, str] = {}
    taken: set[str] = set()
    root = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    for path in paths:
        stem, suffix = os.path.splitext(os.path.basename(path))
        if stems[loose_name(stem)] > 1:
            stem = os.path.splitext(os.path.relpath(path, root))[0].replace(os.sep, "_")
        candidate, number = stem, 2
        while loose_name(candidate) in taken:
            candidate, number = f"{stem}_{number}", number + 1
        taken.add(loose_name(candidate))
        names[path] = candidate + suffix
    return names


def write_coco(
    folder: Path, split: str, content: Mapping[str, Any], image_root: str, *, copy: bool
) -> list[str]:
    """Write a split as COCO JSON.

    Args:
        folder: the folder of the data set.
        split: the name of the split.
        content: the content of the JSON.
        image_root: the folder of its images.
        copy: whether to copy the images.

    Returns:
        Sentences about what could not be written.
    """
    finder, missing, images = LooseFinder(image_root), [], []
    placed: dict[Path, str] = {}
    named = {id(entry): entry for entry in image_entries(content).values()}
    for entry in content["images"]:
        path = finder.find(entry) if id(entry) in named else None
        if path is None:
            missing.append(entry)
            images.append(entry)
            continue
        target = folder / split / _name_inside(path, image_root)
        while placed.get(target, path) != path:  # another image from outside the folder
            target = target.with_name(f"_{target.name}")
        if target not in placed:
            place_image(path, target, copy=copy)
        placed[target] = path
        name = target.relative_to(folder / split).as_posix()
        images.append({**entry, "file_name": name})
    (folder / "annotations").mkdir(exist_ok=True)
    text = json.dumps({**content, "images": images})  # NaN stays, for the reader to report
    write_whole(folder / "annotations" / f"instances_{split}.json", f"{text}\n")
    return [f"{split}: {len(missing):,} images have no file, and no link"] if missing else []


def _name_inside(path: str, image_root: str) -> str:
    name = os.path.relpath(path, image_root)
    return os.path.basename(path) if name.startswith("..") else name


def write_yolo(
    folder: Path, images: Images, classes: Sequence[str], names: Mapping[str, str], *, copy: bool
) -> list[str]:
    """Write a YOLO data set.

    The labels are polygons if each object has one, and their boxes are those of the objects to half
    a pixel; else boxes. Crowds and difficult objects are left out: YOLO has no flag for them.

    Args:
        folder: the folder of the data set.
        images: the images by split.
        classes: the names of the classes in the order of their indices.
        names: the file name of each image by its path.
        copy: whether to copy the images.

    Returns:
        Sentences about what YOLO cannot hold.
    """
    members = [image for part in images.values() for image in part]
    objects = [obj for image in members for obj in image.objects if not _is_ignored(obj)]
    with_polygons = sum(bool(obj.polygons) for obj in objects)
    fitting = sum(_has_fitting_polygons(obj) for obj in objects)
    lines, outlines = [], bool(objects) and fitting == len(objects)
    if with_polygons and not outlines:
        lines.append(
            f"boxes are written, not polygons: {len(objects) - fitting:,} of {len(objects):,} "
            "objects have no polygon, or one that does not fit their box"
        )
    counts: Counter[str] = Counter()
    indices = {name: index for index, name in enumerate(classes)}
    for split, part in images.items():
        for image in part:
            name = names[image.path]
            place_image(image.path, folder / "images" / split / name, copy=copy)
            rows = []
            size = image_size(image)
            for obj in image.objects:
                box = clip_box(obj, size, counts)
                if _is_ignored(obj):
                    counts["crowds or difficult objects left out, which YOLO cannot mark"] += 1
                elif box is not None:
                    values = _join(obj.polygons) if outlines else _centred(box)
                    rows.append(_yolo_row(indices[obj.name or ""], values, size, clip=outlines))
            label = folder / "labels" / split / f"{os.path.splitext(name)[0]}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("".join(rows), encoding="utf-8")
    description = {split: f"images/{split}" for split in images}
    content = {**description, "nc": len(classes), "names": dict(enumerate(classes))}
    text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
    (folder / "data.yaml").write_text(text, encoding="utf-8")
    return lines + [f"{text}: {count:,}" for text, count in counts.items()]


def write_voc(
    folder: Path, images: Images, classes: Sequence[str], names: Mapping[str, str], *, copy: bool
) -> list[str]:
    """Write a Pascal VOC data set. Crowds and ignored objects get the flag of difficult objects.

    Coordinates are rounded to whole pixels, which moves an edge by at most half a pixel. Only boxes
    of about a pixel get decimals, because their rounded corners would coincide.

    Args:
        folder: the folder of the data set.
        images: the images by split.
        classes: the names of the classes; the format has no list of them.
        names: the file name of each image by its path.
        copy: whether to copy the images.

    Returns:
        Sentences about what Pascal VOC cannot hold.
    """
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    counts: Counter[str] = Counter()
    written: set[str] = set()
    for split, part in images.items():
        stems = [os.path.splitext(names[image.path])[0] for image in part]
        text = "".join(f"{stem}\n" for stem in stems)
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(text, encoding="utf-8")
        for image, stem in zip(part, stems, strict=True):
            if stem in written:
                continue
            written.add(stem)
            place_image(image.path, folder / "JPEGImages" / names[image.path], copy=copy)
            tree = ElementTree.ElementTree(_voc_element(image, names[image.path], counts))
            ElementTree.indent(tree)
            tree.write(folder / "Annotations" / f"{stem}.xml", encoding="utf-8")
    used = {obj.name for part in images.values() for image in part for obj in image.objects}
    unused = [name for name in classes if name not in used]
    if unused:
        counts[f"classes without an object, which Pascal VOC cannot list ({unused[0]!r})"] = len(
            unused
        )
    return [f"{text}: {count:,}" for text, count in counts.items()]


def image_size(image: AnnotatedImage) -> tuple[int, int]:
    """Return the width and height of an image in pixels, from its file if it has no size.

    Args:
        image: the image.

    Returns:
        Width and height.

    Raises:
        UserError: the file cannot be read.
    """
    if image.size is None:
        try:
            image.size = read_header(image.path).upright
        except Exception as error:  # the readers of broken files raise many kinds
            raise UserError(f"{image.path} cannot be read ({error})") from None
    return image.size


def clip_box(obj: AnnotatedObject, size: tuple[int, int], counts: Counter[str]) -> Box | None:
    """Clip the box of an object to its image.

    Args:
        obj: the object.
        size: width and height of the image in pixels.
        counts: gets the boxes that are clipped, or left out because they have no size.

    Returns:
        x, y, width, height in pixels; None for a box without size.
    """
    x, y, width, height = obj.box
    x1, y1 = max(x, 0.0), max(y, 0.0)
    x2, y2 = min(x + width, size[0]), min(y + height, size[1])
    if x2 <= x1 or y2 <= y1:
        counts["boxes left out that have no size or lie outside their image"] += 1
        return None
    # Decimals of a float do not count as sticking out.
    if max(x1 - x, y1 - y, x + width - x2, y + height - y2) > 1e-3:
        counts["boxes clipped to their image"] += 1
    return x1, y1, x2 - x1, y2 - y1


def _is_ignored(obj: AnnotatedObject) -> bool:
    return obj.crowd or obj.difficult


def _has_fitting_polygons(obj: AnnotatedObject) -> bool:
    if not obj.polygons:
        return False
    pairs = zip(obj.box, extent(obj.polygons), strict=True)
    return all(abs(a - b) <= _AGREEMENT for a, b in pairs)


def _join(polygons: Sequence[Polygon]) -> Polygon:
    """Return one polygon that covers the same area: lines without width connect its parts."""
    first = polygons[0][:2]
    joined: Polygon = list(polygons[0])
    for polygon in polygons[1:]:
        joined += [*first, *polygon, *polygon[:2], *first]
    return joined


def _centred(box: Box) -> list[float]:
    x, y, width, height = box
    return [x + width / 2, y + height / 2, width, height]


def _yolo_row(index: int, values: Iterable[float], size: tuple[int, int], *, clip: bool) -> str:
    shares = [value / size[i % 2] for i, value in enumerate(values)]
    if clip:
        shares = [min(max(share, 0.0), 1.0) for share in shares]
    return " ".join([str(index), *(f"{share:.8g}" for share in shares)]) + "\n"


def _voc_element(image: AnnotatedImage, name: str, counts: Counter[str]) -> Element:
    root = Element("annotation")
    size = image_size(image)
    _add(root, "folder", "JPEGImages")
    _add(root, "filename", name)
    size_element = SubElement(root, "size")
    for key, side in zip(("width", "height", "depth"), (*size, 3), strict=True):
        _add(size_element, key, side)
    _add(root, "segmented", 0)
    for obj in image.objects:
        box = clip_box(obj, size, counts)
        if box is None:
            continue
        if obj.polygons:
            counts["masks left out, which Pascal VOC's boxes cannot hold"] += 1
        element = SubElement(root, "object")
        _add(element, "name", obj.name)
        _add(element, "pose", "Unspecified")
        _add(element, "truncated", 0)
        _add(element, "difficult", int(_is_ignored(obj)))
        corners = SubElement(element, "bndbox")
        xs, ys = _voc_edges(box[0], box[2]), _voc_edges(box[1], box[3])
        for key, value in (("xmin", xs[0]), ("ymin", ys[0]), ("xmax", xs[1]), ("ymax", ys[1])):
            _add(corners, key, f"{value:.4f}" if isinstance(value, float) else value)
    return root


def _add(parent: Element, tag: str, value: Any) -> None:
    SubElement(parent, tag).text = str(value)


def _voc_edges(start: float, length: float) -> tuple[float, float]:
    """Return the first and the last pixel of a side, which count from 1."""
    end = start + length
    if round(end) > round(start) + 1:
        return (round(start) + 1, round(end))
    widened = max(_LEAST_SIDE - length, 0.0) / 2
    return float(start - widened + 1), float(end + widened)


Writer = Callable[..., list[str]]
WRITERS: dict[str, Writer] = {"yolo": write_yolo, "voc": write_voc}
"""The writers of data sets of annotated images by the short name of their format."""


def drop_unreadable(images: Images, findings: Findings) -> dict[str, list[AnnotatedImage]]:
    """Leave out the images whose size is neither given nor readable.

    Args:
        images: the images by split.
        findings: gets the images that are left out.

    Returns:
        The other images by split, with their sizes.
    """
    kept: dict[str, list[AnnotatedImage]] = {}
    for split, part in images.items():
        kept[split] = []
        for image in part:
            try:
                image_size(image)
            except UserError as error:
                findings.skip_image("unreadable image", image.path, str(error))
                continue
            kept[split].append(image)
    return kept
