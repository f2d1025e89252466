"""Read Pascal VOC data sets: an XML file per image.

The format is that of http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf. Pixels count
from 1 and a box includes its last pixel, so that xmin = 1 and xmax = width cover the whole image,
as in Detectron2's ``load_voc_instances``. So the left edge lies at xmin - 1 and
the right edge at xmax. Some tools count from 0 instead. They are recognised by a coordinate of 0,
which the format does not have, in any file of the data set; their boxes are taken as they are.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from xml.etree.ElementTree import Element

from ranking_det.data.formats.annotated_images import (
    AnnotatedImage,
    AnnotatedObject,
    Findings,
    Polygon,
    extent,
    to_numbers,
)
from ranking_det.data.formats.file_tree import FileTree, loose_name, nearest_path, split_of
from ranking_det.user_errors import UserError, show

NAME = "Pascal VOC"
LISTS = ("train", "val", "trainval", "test")
_LOOKED_AT = 20  # XML files that are opened to recognise the format
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def find_files(tree: FileTree) -> list[str]:
    """Return the XML files of a Pascal VOC data set; none if the folder holds no such set.

    Args:
        tree: the files of the folder.

    Returns:
        The absolute paths of the files.
    """
    paths = tree.with_suffix(".xml")
    return paths if any(_root_tag(path) == "annotation" for path in paths[:_LOOKED_AT]) else []


def _root_tag(path: str) -> str | None:
    try:
        return next(ElementTree.iterparse(path, ["start"]))[1].tag
    except (ElementTree.ParseError, OSError, StopIteration, ValueError):
        return None


def read(
    tree: FileTree, paths: Sequence[str], findings: Findings
) -> dict[str, list[AnnotatedImage]]:
    """Read the XML files.

    Where the data set has lists of images (``ImageSets/Main/train.txt`` and so on), they make the
    splits. Else folders named train, val or test do.

    Args:
        tree: the files of the folder.
        paths: its XML files.
        findings: gets the faults and the notes.

    Returns:
        The images by split: "train", "val", "trainval", "test", or "all" without splits.

    Raises:
        UserError: a list names no image of the data set.
    """
    images = {}
    for path in paths:
        image = _read_file(tree, path, findings)
        if image is not None:
            images[path] = image
    _shift_to_zero([obj for image in images.values() for obj in image.objects], findings)
    listed = _read_lists(tree, paths, findings)
    if not listed:
        listed = {}
        for path in paths:
            listed.setdefault(split_of(tree.relative(os.path.dirname(path))) or "all", []).append(
                path
            )
    return {
        split: [images[path] for path in members if path in images]
        for split, members in listed.items()
    }


def _read_file(tree: FileTree, path: str, findings: Findings) -> AnnotatedImage | None:
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError, ValueError) as error:
        findings.skip_image("broken XML", path, f"cannot be read as XML ({error})")
        return None
    if root.tag != "annotation":
        return None
    folder, stem = os.path.dirname(path), os.path.splitext(os.path.basename(path))[0]
    named = (root.findtext("filename") or "").strip()
    by_stem = [obj for obj in tree.by_stem(stem) if not _is_mask(obj)]
    image_path = (nearest_path(by_stem, folder) if by_stem else None) or (
        tree.find_image(named, folder) if named else None
    )
    if image_path is None:
        names = " or ".join(dict.fromkeys(map(repr, filter(None, (stem, named)))))
        findings.skip_image("missing image", path, f"no image file {names} in {tree.root}")
        return None
    size = to_numbers(root.findtext(f"size/{key}") or 0 for key in ("width", "height"))
    image = AnnotatedImage(image_path)
    if size is not None and min(size) >= 1:
        image.size = int(size[0]), int(size[1])
    for index, element in enumerate(root.findall("object"), start=1):
        obj = _read_object(element, f"{path}: object {index}", findings)
        if obj is not None:
            image.objects.append(obj)
    return image


def _is_mask(path: str) -> bool:
    """Return whether an image is one of masks, which have the names of the images."""
    return os.path.basename(os.path.dirname(path)).startswith("Segmentation")


def _read_object(element: Element, place: str, findings: Findings) -> AnnotatedObject | None:
    name = (element.findtext("name") or "").strip()
    if not name:
        findings.skip_object("no class", place, "expected a <name>, got none")
        return None
    box = element.find("bndbox")
    if box is None:
        kind = "rotated box" if element.find("robndbox") is not None else "no box"
        findings.skip_object(kind, place, "expected a <bndbox>, got none")
        return None
    texts = [box.findtext(key) for key in _CORNERS]
    corners = to_numbers(texts)
    if corners is None:
        expected = "expected numbers xmin, ymin, xmax, ymax"
        findings.skip_object("malformed box", place, f"<bndbox>: {expected}, got {show(texts)}")
        return None
    difficult = to_numbers([element.findtext("difficult") or 0]) or [0.0]
    x1, y1, x2, y2 = corners
    polygons = _read_polygon(element.find("polygon"))
    # For now corners; _shift_to_zero makes the box of them.
    return AnnotatedObject(
        name, (x1, y1, x2, y2), polygons, difficult=difficult[0] == 1, place=place
    )


def _read_polygon(element: Element | None) -> list[Polygon]:
    """Read the ``<polygon>`` with x1, y1, x2 and so on that some tools add."""
    if element is None:
        return []
    polygon: Polygon = []
    for index in range(1, len(element) // 2 + 1):
        point = to_numbers(element.findtext(f"{axis}{index}") for axis in "xy")
        if point is None:
            return []
        polygon += point
    return [polygon] if len(polygon) >= 6 else []


def _shift_to_zero(objects: Sequence[AnnotatedObject], findings: Findings) -> None:
    """Replace corners that count from 1 by x, y, width, height that count from 0."""
    from_zero = sum(min(obj.box[:2]) <= 0 for obj in objects)
    if from_zero:
        findings.note(
            f"{from_zero:,} boxes have a coordinate of 0 or less: pixels are taken to count from "
            "0, not from 1 as in Pascal VOC"
        )
    shift = 0 if from_zero else 1
    for obj in objects:
        x1, y1, x2, y2 = obj.box
        # With one corner twice the box has no size: somebody clicked. A pixel wide, it would be
        # an object to learn.
        dx, dy = (0 if x2 <= x1 else shift), (0 if y2 <= y1 else shift)
        obj.box = x1 - dx, y1 - dy, x2 - x1 + dx, y2 - y1 + dy
        obj.polygons = [[value - shift for value in polygon] for polygon in obj.polygons]
        if obj.polygons and not _agrees(obj.box, extent(obj.polygons)):
            obj.polygons = []


def _agrees(first: Sequence[float], second: Sequence[float]) -> bool:
    return all(abs(a - b) <= 2 for a, b in zip(first, second, strict=True))


def _read_lists(
    tree: FileTree, paths: Sequence[str], findings: Findings
) -> dict[str, list[str]] | None:
    """Return the XML files by split, as the lists of the data set have them; None without lists."""
    texts = [path for path in tree.with_suffix(".txt") if "ImageSets" in path.split(os.sep)]
    found = [path for path in texts if _list_name(path) and not _is_of_masks(path)]
    if not found:
        return None
    by_stem: dict[str, list[str]] = {}
    for path in paths:
        by_stem.setdefault(loose_name(os.path.splitext(os.path.basename(path))[0]), []).append(path)
    splits: dict[str, dict[str, None]] = {}
    for list_file in found:
        members: dict[str, None] = {}
        missing = []
        for stem in _read_list(list_file, by_stem):
            candidates = by_stem.get(stem)
            nearest = nearest_path(candidates, os.path.dirname(list_file)) if candidates else None
            if nearest is None:
                missing.append(stem)
            else:
                members[nearest] = None
        if not members:
            findings.note(f"{list_file} is not used: it names no image that has an XML file")
            continue
        for stem in missing:
            findings.skip_image("no XML file", list_file, f"no XML file for {show(stem)}")
        splits.setdefault(_list_name(list_file) or "", {}).update(members)
    if not splits:
        raise UserError(f"{found[0]}: names no image that has an XML file in {tree.root}")
    return {split: list(members) for split, members in splits.items()}


def _is_of_masks(path: str) -> bool:
    """Return whether a list is one of images with masks, a subset of those with boxes."""
    return os.path.basename(os.path.dirname(path)) == "Segmentation"


def _list_name(path: str) -> str | None:
    name = os.path.splitext(os.path.basename(path))[0].lower()
    # Lists of single classes, such as cat_train.txt, have the same images again.
    return split_of(name) if name in (*LISTS, "valid", "validation") else None


def _read_list(path: str, by_stem: dict[str, list[str]]) -> Iterator[str]:
    """Yield the names of a list, without folders and extensions; a name may have spaces."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        for line in file:
            name = line.strip().replace("\\", "/").rsplit("/", 1)[-1]
            words = name.rsplit(maxsplit=1)
            if len(words) == 2 and words[1] in ("-1", "0", "1") and loose_name(name) not in by_stem:
                name = words[0]
            if not name:
                continue
            stem = loose_name(name)
            yield stem if stem in by_stem else os.path.splitext(stem)[0]
