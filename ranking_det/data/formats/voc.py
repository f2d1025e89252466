"""Read Pascal VOC data sets: an XML file per image.

The format is that of http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf. Pixels count
from 1 and a box includes its last pixel, so that xmin = 1 and xmax = width cover the whole image,
as in Detectron2's ``load_voc_instances``. The left edge is therefore at xmin - 1, the right edge at
xmax. Some tools count from 0 instead. They are recognized by a coordinate of 0 in any file of the
data set, which the format does not allow; their boxes are used without this shift.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from xml.etree.ElementTree import Element

from ranking_det.data.coco_json.faults import LEFT_OUT, SKIPPED, Fault, Faults
from ranking_det.data.coco_json.image_files import loose_name
from ranking_det.data.formats.annotated_images import (
    AnnotatedImage,
    AnnotatedObject,
    FaultError,
    Polygon,
    counting,
    extent,
    given_size,
    to_numbers,
)
from ranking_det.data.formats.file_tree import FileTree, nearest_path, split_of
from ranking_det.user_errors import UserError, quantity, show

NAME = "Pascal VOC"
LISTS = ("train", "val", "trainval", "test")
_NUM_PROBED = 20  # XML files that are opened to recognize the format
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def find_files(tree: FileTree) -> list[str]:
    """Return the XML files of a Pascal VOC data set; none if the folder holds no such set.

    Args:
        tree: the files of the folder.
    """
    paths = tree.with_suffix(".xml")
    return paths if any(_root_tag(path) == "annotation" for path in paths[:_NUM_PROBED]) else []


def _root_tag(path: str) -> str | None:
    try:
        return _parse(path).tag
    except (ElementTree.ParseError, OSError, ValueError, LookupError):
        return None


def _parse(path: str) -> Element:
    """Parse an XML file in any encoding that it declares; tags lose their namespaces.

    Raises:
        ElementTree.ParseError: it is not XML.
        OSError: it cannot be read.
        ValueError: it is not in its encoding.
        LookupError: the encoding is unknown.
    """
    with open(path, "rb") as file:
        content = file.read().lstrip()  # a declaration after an empty line is an error in XML
    encoding = re.match(rb"<\?xml[^>]*?encoding=[\"']([\w.-]+)[\"'][^>]*>", content)
    try:
        root = ElementTree.fromstring(content)
    except ValueError:  # expat does not know encodings of several bytes, such as GBK
        if encoding is None:
            raise
        root = ElementTree.fromstring(content[encoding.end() :].decode(encoding[1].decode()))
    for element in root.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2]
    return root


def read(tree: FileTree, paths: Sequence[str], faults: Faults) -> dict[str, list[AnnotatedImage]]:
    """Read the XML files.

    The lists of images (``ImageSets/Main/train.txt`` and so on) define the splits. Without lists,
    folders named train, val or test do.

    Args:
        tree: the files of the folder.
        paths: its XML files.
        faults: receives what is left out, and remarks.

    Returns:
        The images by split: "train", "val", "trainval", "test", or "all" without splits.

    Raises:
        UserError: a list names no image of the data set.
    """
    images: dict[str, AnnotatedImage] = {}
    for path in paths:
        with counting(faults, SKIPPED, path):
            image = _read_file(tree, path, faults)
            if image is not None:
                images[path] = image
    _shift_to_zero([obj for image in images.values() for obj in image.objects], faults)
    splits = _read_lists(tree, paths, faults)
    if not splits:
        for path in paths:
            split = split_of(tree.relative(os.path.dirname(path))) or "all"
            splits.setdefault(split, []).append(path)
    return {
        split: [images[path] for path in members if path in images]
        for split, members in splits.items()
    }


def _read_file(tree: FileTree, path: str, faults: Faults) -> AnnotatedImage | None:
    """Read an XML file; return None if it is not a Pascal VOC annotation."""
    try:
        root = _parse(path)
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        raise FaultError("broken XML", f"cannot be read as XML ({error})") from None
    if root.tag != "annotation":
        faults.remark(f"{path} is not used: expected the root <annotation>, got <{root.tag}>")
        return None
    folder, stem = os.path.dirname(path), os.path.splitext(os.path.basename(path))[0]
    file_name = (root.findtext("filename") or "").strip()
    by_stem = [image for image in tree.by_stem(stem) if not _is_mask(image)]
    image_path = nearest_path(by_stem, folder) or tree.find_image(file_name, folder)
    if image_path is None:
        names = " or ".join(dict.fromkeys(map(repr, filter(None, (stem, file_name)))))
        raise FaultError("missing image", f"no image file {names} in {tree.root}")
    size = given_size(root.findtext("size/width"), root.findtext("size/height"))
    image = AnnotatedImage(image_path, size=size)
    for index, element in enumerate(root.findall("object"), start=1):
        place = f"object {index}"
        with counting(faults, LEFT_OUT, path, place, image_path):
            image.objects.append(_read_object(element, f"{path}, {place}"))
    return image


def _is_mask(path: str) -> bool:
    """Return whether an image file is a segmentation mask, which has the name of its image."""
    return os.path.basename(os.path.dirname(path)).startswith("Segmentation")


def _read_object(element: Element, place: str) -> AnnotatedObject:
    """Read an object; ``box`` holds x1, y1, x2, y2 until :func:`_shift_to_zero` converts it.

    Raises:
        FaultError: it has no class or no box.
    """
    name = (element.findtext("name") or "").strip()
    if not name:
        raise FaultError("no class", "expected a <name>, got none")
    box = element.find("bndbox")
    if box is None:
        kind = "rotated box" if element.find("robndbox") is not None else "no box"
        raise FaultError(kind, "expected a <bndbox>, got none")
    texts = [box.findtext(key) for key in _CORNERS]
    corners = to_numbers(texts)
    if corners is None:
        expected = "expected numbers xmin, ymin, xmax, ymax"
        raise FaultError("malformed box", f"<bndbox>: {expected}, got {show(texts)}")
    x1, y1, x2, y2 = corners
    is_difficult = to_numbers([element.findtext("difficult")]) == [1]
    polygons = _read_polygon(element.find("polygon"))
    return AnnotatedObject(name, (x1, y1, x2, y2), polygons, difficult=is_difficult, place=place)


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


def _shift_to_zero(objects: Sequence[AnnotatedObject], faults: Faults) -> None:
    """Replace corners that count from 1 by x, y, width, height that count from 0."""
    num_from_zero = sum(min(obj.box[:2]) <= 0 for obj in objects)
    if num_from_zero:
        faults.remark(
            f"{quantity(num_from_zero, 'box has', 'boxes have')} a coordinate of 0 or less: pixels "
            "are taken to count from 0, not from 1 as in Pascal VOC"
        )
    shift = 0 if num_from_zero else 1
    for obj in objects:
        x1, y1, x2, y2 = obj.box
        # A box with x1 = x2 or y1 = y2 comes from a click without dragging. Its side stays 0, so
        # that the box is left out: the shift would make the side one pixel long and keep the box.
        dx, dy = (0 if x2 <= x1 else shift), (0 if y2 <= y1 else shift)
        obj.box = x1 - dx, y1 - dy, x2 - x1 + dx, y2 - y1 + dy
        obj.polygons = [[value - shift for value in polygon] for polygon in obj.polygons]
        pairs = zip(obj.box, extent(obj.polygons), strict=True) if obj.polygons else ()
        if any(abs(a - b) > 2 for a, b in pairs):  # the tool wrote them in other coordinates
            obj.polygons = []


def _read_lists(tree: FileTree, paths: Sequence[str], faults: Faults) -> dict[str, list[str]]:
    """Return the XML files by split, as the lists of images define them; {} without lists."""
    texts = [path for path in tree.with_suffix(".txt") if "ImageSets" in path.split(os.sep)]
    lists = [path for path in texts if _split_of_list(path) and not _is_mask_list(path)]
    by_stem: dict[str, list[str]] = {}
    for path in paths:
        by_stem.setdefault(loose_name(os.path.splitext(os.path.basename(path))[0]), []).append(path)
    splits: dict[str, dict[str, None]] = {}
    missing: dict[str, str] = {}  # trainval has the names of train and val again
    for list_file in lists:
        stems, folder = list(_read_list(list_file, by_stem)), os.path.dirname(list_file)
        nearest = [nearest_path(by_stem.get(stem, []), folder) for stem in stems]
        members = dict.fromkeys(path for path in nearest if path is not None)
        if not members:
            faults.remark(f"{list_file} is not used: it names no image that has an XML file")
            continue
        for stem in (stem for stem, path in zip(stems, nearest, strict=True) if path is None):
            missing.setdefault(stem, list_file)
        splits.setdefault(_split_of_list(list_file) or "", {}).update(members)
    for stem, list_file in missing.items():
        text = f"no XML file for {show(stem)}"
        faults.add_row(Fault(list_file, "", "", stem, "no XML file", SKIPPED, text))
    unlisted = set(paths).difference(*splits.values()) if splits else ()
    if unlisted:
        text = f"{len(unlisted):,} XML files are in no list and are not used"
        faults.remark(f"{text}, such as {min(unlisted)}")
    if lists and not splits:
        raise UserError(f"{lists[0]}: names no image that has an XML file in {tree.root}")
    return {split: list(members) for split, members in splits.items()}


def _is_mask_list(path: str) -> bool:
    """Return whether a list names the images with masks, a subset of those with boxes."""
    return os.path.basename(os.path.dirname(path)) == "Segmentation"


def _split_of_list(path: str) -> str | None:
    name = os.path.splitext(os.path.basename(path))[0].lower()
    # Lists of single classes, such as cat_train.txt, have the same images again.
    return split_of(name) if name in (*LISTS, "valid", "validation") else None


def _read_list(path: str, by_stem: dict[str, list[str]]) -> Iterator[str]:
    """Yield the names of a list, without folders and extensions; a name may have spaces."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        for line in file:
            name = line.strip().replace("\\", "/").rsplit("/", 1)[-1]
            words = name.rsplit(maxsplit=1)  # the name, and in some lists a flag of -1, 0 or 1
            if len(words) == 2 and words[1] in ("-1", "0", "1") and loose_name(name) not in by_stem:
                name = words[0]
            if not name:
                continue
            stem = loose_name(name)
            yield stem if stem in by_stem else os.path.splitext(stem)[0]
