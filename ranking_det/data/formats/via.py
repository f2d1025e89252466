"""Read projects and annotations of the VGG Image Annotator (VIA), versions 1 and 2.

The format is that of "Export Annotations (as json)" in https://www.robots.ox.ac.uk/~vgg/software/via/:
an entry for each image, with ``filename`` and ``regions``, which have ``shape_attributes`` and
``region_attributes``. A project has the same under ``_via_img_metadata``.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ranking_det.data.formats.annotated_images import (
    AnnotatedImage,
    AnnotatedObject,
    Box,
    Findings,
    Polygon,
    ellipse,
    extent,
    to_numbers,
)
from ranking_det.data.formats.file_tree import FileTree, split_of
from ranking_det.user_errors import UserError, show

NAME = "VIA"
USUAL_ATTRIBUTES = ("class", "label", "name", "category", "type", "object", "object_name")
"""Of several attributes that all regions have, one of these is taken as the class."""

NO_CLASS = "object"
"""The name of the only class if no region has an attribute."""

_RECT = ("x", "y", "width", "height")
_ELLIPSE = ("cx", "cy", "rx", "ry")


class Region(NamedTuple):
    """A region and where it comes from.

    Attributes:
        obj: its object, without a class so far.
        attributes: its region attributes.
        options: the texts of the options by attribute, as the project defines them.
    """

    obj: AnnotatedObject
    attributes: Mapping[str, Any]
    options: Mapping[str, Mapping[str, str]]


def metadata_of(content: Any) -> Mapping[str, Any] | None:
    """Return the images of a VIA file by their keys; None if the content is that of another file.

    Args:
        content: the content of a JSON file.

    Returns:
        The entries of the images, or None.
    """
    if not isinstance(content, dict):
        return None
    images = content.get("_via_img_metadata", content)
    if not isinstance(images, dict) or not images:
        return None
    entries = [value for value in images.values() if isinstance(value, dict)]
    complete = [value for value in entries if "filename" in value and "regions" in value]
    return images if len(complete) == len(images) else None


def read(
    tree: FileTree,
    files: Mapping[str, Any],
    findings: Findings,
    class_attribute: str | None = None,
) -> dict[str, list[AnnotatedImage]]:
    """Read VIA files.

    Args:
        tree: the files of the folder.
        files: the contents of the VIA files by path.
        findings: gets the faults and the notes.
        class_attribute: the region attribute that names the class; None for the one that most
            regions have.

    Returns:
        The images by split, which the name or the folder of a file gives, else "all".

    Raises:
        UserError: it is not clear which attribute names the class.
    """
    splits: dict[str, list[AnnotatedImage]] = {}
    regions: list[Region] = []
    for path, content in files.items():
        options = _options(content)
        images = splits.setdefault(split_of(tree.relative(path)) or "all", [])
        for entry in (metadata_of(content) or {}).values():
            image_path = tree.find_image(str(entry["filename"]), os.path.dirname(path))
            place = f"{path}: {entry['filename']}"
            if image_path is None:
                findings.skip_image("missing image", place, f"no such image file in {tree.root}")
                continue
            image = AnnotatedImage(image_path)
            for region in _read_regions(entry["regions"], place, findings):
                regions.append(region._replace(options=options))
                image.objects.append(region.obj)
            images.append(image)
    _set_classes(regions, findings, class_attribute)
    for images in splits.values():
        for image in images:
            image.objects = [obj for obj in image.objects if obj.name is not None]
    return splits


def _options(content: Mapping[str, Any]) -> Mapping[str, Mapping[str, str]]:
    """Return the texts of the options by attribute, which VIA's own COCO export takes as names."""
    attributes = content.get("_via_attributes")
    of_regions = attributes.get("region") if isinstance(attributes, dict) else None
    options = {}
    for name, attribute in of_regions.items() if isinstance(of_regions, dict) else ():
        values = attribute.get("options") if isinstance(attribute, dict) else None
        if isinstance(values, dict):
            texts = {key: text.strip() for key, text in values.items() if isinstance(text, str)}
            options[name] = {key: text for key, text in texts.items() if text}
    return options


def _read_regions(regions: Any, place: str, findings: Findings) -> Iterator[Region]:
    if isinstance(regions, dict):  # version 1
        regions = list(regions.values())
    for index, region in enumerate(regions if isinstance(regions, list) else []):
        where = f"{place}, region {index}"
        shape = region.get("shape_attributes") if isinstance(region, dict) else None
        if not isinstance(shape, dict):
            text = f"expected 'shape_attributes', got {show(region)}"
            findings.skip_object("malformed region", where, text)
            continue
        outline = _read_shape(shape, where, findings)
        attributes = region.get("region_attributes")
        if outline is not None:
            obj = AnnotatedObject(None, *outline, place=where)
            yield Region(obj, attributes if isinstance(attributes, dict) else {}, {})


def _read_shape(
    shape: Mapping[str, Any], place: str, findings: Findings
) -> tuple[Box, list[Polygon]] | None:
    kind = shape.get("name")
    if kind in ("point", "polyline", "line"):
        findings.skip_object(str(kind), place, f"a {kind} has no area")
        return None
    outline: tuple[Box, list[Polygon]] | None = None
    if kind == "rect":
        numbers = to_numbers(shape.get(key) for key in _RECT)
        if numbers is not None:
            x, y, width, height = numbers
            outline = (x, y, width, height), []
    elif kind in ("circle", "ellipse"):
        radii = {"rx": shape.get("r"), "ry": shape.get("r")} if kind == "circle" else {}
        numbers = to_numbers({**shape, **radii}.get(key) for key in _ELLIPSE)
        angle = to_numbers([shape.get("theta") or 0.0])
        if numbers is not None and angle is not None:
            x, y, rx, ry = numbers
            box, polygon = ellipse(x, y, rx, ry, angle[0])
            outline = box, [polygon]
    elif kind == "polygon":
        outline = _read_polygon(shape)
    if outline is None:
        text = f"expected a rect, polygon, circle or ellipse with numbers, got {show(dict(shape))}"
        findings.skip_object("malformed region", place, text)
    return outline


def _read_polygon(shape: Mapping[str, Any]) -> tuple[Box, list[Polygon]] | None:
    axes = [shape.get(f"all_points_{axis}") for axis in "xy"]
    if not all(isinstance(axis, list) for axis in axes):
        return None
    xs, ys = (to_numbers(axis or []) or [] for axis in axes)
    if len(xs) != len(ys) or not xs:
        return None
    polygon = [value for point in zip(xs, ys, strict=True) for value in point]
    return extent([polygon]), [polygon] if len(polygon) >= 6 else []


def _set_classes(regions: list[Region], findings: Findings, class_attribute: str | None) -> None:
    attribute = class_attribute or _class_attribute(regions)
    if attribute is None:
        if regions:
            findings.note(f"no region has an attribute: all are of the class {NO_CLASS!r}")
        for region in regions:
            region.obj.name = NO_CLASS
        return
    values = [_class_of(region, attribute) for region in regions]
    names = sorted({value for value in values if value})
    if not names:
        raise UserError(f"no region has the attribute {attribute!r}")
    findings.note(f"the region attribute {attribute!r} names the class")
    unnamed = [region for region, value in zip(regions, values, strict=True) if value is None]
    if unnamed and len(names) == 1:
        text = f"{len(unnamed):,} of {len(regions):,} regions have no {attribute!r}"
        findings.note(f"{text}: they are of the only class, {names[0]!r}")
    for region, value in zip(regions, values, strict=True):
        region.obj.name = value or None
        if value == "":
            text = f"{attribute!r}: expected one choice, got {show(region.attributes[attribute])}"
            findings.skip_object("several classes", region.obj.place, text)
        elif value is None and len(names) == 1:
            region.obj.name = names[0]
        elif value is None:
            text = f"expected the region attribute {attribute!r}, got none"
            findings.skip_object("no class", region.obj.place, text)


def _class_attribute(regions: list[Region]) -> str | None:
    """Return the attribute that most regions have; None if no region has any.

    Raises:
        UserError: several attributes tie, have different values, and no name of them is usual.
    """
    counts: Counter[str] = Counter()
    values: dict[str, dict[int, str]] = defaultdict(dict)
    for index, region in enumerate(regions):
        for name in region.attributes:
            value = _class_of(region, name)
            if value:
                counts[name] += 1
                values[name][index] = value
    if not counts:
        return None
    most = max(counts.values())
    tied = sorted(name for name, count in counts.items() if count == most)
    for usual in USUAL_ATTRIBUTES:
        for name in tied:
            if name.lower() == usual:
                return name
    if any(values[name] != values[tied[0]] for name in tied):
        text = f"{most:,} regions have the attributes {', '.join(tied)}"
        way = "python -m ranking_det.data.convert --class-attribute NAME chooses one"
        raise UserError(f"{text}: it is not clear which of them names the class; {way}")
    return tied[0]


def _class_of(region: Region, attribute: str) -> str | None:
    """Return the class of a region; None if it has none, "" if it has several checked boxes."""
    value = region.attributes.get(attribute)
    if isinstance(value, dict):  # checkboxes
        chosen = [key for key, is_set in value.items() if is_set is True or is_set == "true"]
        if len(chosen) > 1:
            return ""
        value = chosen[0] if chosen else None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    text = str(value).strip()
    return region.options.get(attribute, {}).get(text, text) or None
