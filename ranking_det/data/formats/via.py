"""Read projects and annotations of the VGG Image Annotator (VIA), versions 1 and 2.

The format is that of "Export Annotations (as json)" in https://www.robots.ox.ac.uk/~vgg/software/via/:
an entry for each image, with ``filename`` and ``regions``, which have ``shape_attributes`` and
``region_attributes``. A project has the same under ``_via_img_metadata``.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

from ranking_det.data.coco_json.faults import LEFT_OUT, SKIPPED, Faults
from ranking_det.data.formats.annotated_images import (
    AnnotatedImage,
    AnnotatedObject,
    Box,
    FaultError,
    Polygon,
    counting,
    ellipse,
    extent,
    to_numbers,
)
from ranking_det.data.formats.file_tree import FileTree, split_of
from ranking_det.user_errors import UserError, quantity, show

NAME = "VIA"
CLASS_ATTRIBUTES = ("class", "label", "name", "category", "type", "object", "object_name")
"""If several attributes are equally frequent, the first of these names the class."""

NO_CLASS = "object"
"""The name of the only class if no region has an attribute."""


class _Region(NamedTuple):
    obj: AnnotatedObject  # its class is set once all regions are read
    attributes: Mapping[str, Any]
    options: Mapping[str, Mapping[str, str]]  # the texts of the options by attribute
    file: str
    place: str
    image: str


def metadata_of(content: Any) -> Mapping[str, Any] | None:
    """Return the images of a VIA file by their keys; None for other JSON.

    Args:
        content: the content of a JSON file.
    """
    images = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
    entries = list(images.values()) if isinstance(images, dict) else []
    keys = {"filename", "regions"}
    is_via = all(isinstance(entry, dict) and keys <= entry.keys() for entry in entries)
    return images if entries and is_via else None


def read(
    tree: FileTree, files: Mapping[str, Any], faults: Faults, class_attribute: str | None
) -> dict[str, list[AnnotatedImage]]:
    """Read VIA files.

    Args:
        tree: the files of the folder.
        files: the contents of the VIA files by path.
        faults: receives what is left out, and remarks.
        class_attribute: the region attribute that names the class; None for the one that most
            regions have.

    Returns:
        The images by split. The path of their file names the split; "all" if it names none.

    Raises:
        UserError: it is not clear which attribute names the class.
    """
    splits: dict[str, list[AnnotatedImage]] = {}
    regions: list[_Region] = []
    for path, content in files.items():
        options = _options(content)
        images = splits.setdefault(split_of(tree.relative(path)) or "all", [])
        for entry in (metadata_of(content) or {}).values():
            name = str(entry["filename"])
            with counting(faults, SKIPPED, path, name):
                image_path = tree.find_image(name, os.path.dirname(path))
                if image_path is None:
                    raise FaultError("missing image", f"no such image file in {tree.root}")
                images.append(AnnotatedImage(image_path))
                image_regions = entry["regions"]
                if isinstance(image_regions, dict):  # version 1
                    image_regions = list(image_regions.values())
                for index, region in enumerate(
                    image_regions if isinstance(image_regions, list) else []
                ):
                    place = f"{name}, region {index}"
                    with counting(faults, LEFT_OUT, path, place, image_path):
                        obj, attributes = _read_region(region)
                        obj.place = f"{path}, {place}"
                        regions.append(_Region(obj, attributes, options, path, place, image_path))
                        images[-1].objects.append(obj)
    _set_classes(regions, faults, class_attribute)
    for images in splits.values():
        for image in images:
            image.objects = [obj for obj in image.objects if obj.name is not None]
    return splits


def _options(content: Mapping[str, Any]) -> Mapping[str, Mapping[str, str]]:
    """Return the texts of the options by attribute; VIA's COCO export uses them as class names."""
    attributes = content.get("_via_attributes")
    region_attributes = attributes.get("region") if isinstance(attributes, dict) else None
    options = {}
    for name, attribute in region_attributes.items() if isinstance(region_attributes, dict) else ():
        values = attribute.get("options") if isinstance(attribute, dict) else None
        if isinstance(values, dict):
            texts = {key: text.strip() for key, text in values.items() if isinstance(text, str)}
            options[name] = {key: text for key, text in texts.items() if text}
    return options


def _read_region(region: Any) -> tuple[AnnotatedObject, Mapping[str, Any]]:
    """Return the object of a region, and its attributes.

    Raises:
        FaultError: it has no shape with an area.
    """
    shape = region.get("shape_attributes") if isinstance(region, dict) else None
    if not isinstance(shape, dict):
        raise FaultError("malformed region", f"expected 'shape_attributes', got {show(region)}")
    kind = shape.get("name")
    if kind in ("point", "polyline", "line"):
        raise FaultError(kind, f"a {kind} has no area")
    outline = _read_shape(kind, shape)
    if outline is None:
        text = f"expected a rect, polygon, circle or ellipse with numbers, got {show(shape)}"
        raise FaultError("malformed region", text)
    attributes = region.get("region_attributes")
    return AnnotatedObject(None, *outline), attributes if isinstance(attributes, dict) else {}


def _read_shape(kind: Any, shape: Mapping[str, Any]) -> tuple[Box, list[Polygon]] | None:
    if kind == "rect":
        numbers = to_numbers(shape.get(key) for key in ("x", "y", "width", "height"))
        return None if numbers is None else ((numbers[0], numbers[1], numbers[2], numbers[3]), [])
    if kind in ("circle", "ellipse"):
        keys = ("cx", "cy", "r", "r") if kind == "circle" else ("cx", "cy", "rx", "ry")
        numbers = to_numbers([*(shape.get(key) for key in keys), shape.get("theta") or 0.0])
        if numbers is None:
            return None
        box, polygon = ellipse(*numbers)
        return box, [polygon]
    axes = [shape.get(f"all_points_{axis}") for axis in "xy"]
    if kind != "polygon" or not all(isinstance(axis, list) for axis in axes):
        return None
    xs, ys = (to_numbers(axis or []) or [] for axis in axes)
    if len(xs) != len(ys) or not xs:
        return None
    polygon = [value for point in zip(xs, ys, strict=True) for value in point]
    return extent([polygon]), [polygon] if len(polygon) >= 6 else []


def _set_classes(regions: list[_Region], faults: Faults, class_attribute: str | None) -> None:
    attribute = class_attribute or _class_attribute(regions)
    if attribute is None:
        if regions:
            faults.remark(f"no region has an attribute: all get the class {NO_CLASS!r}")
        for region in regions:
            region.obj.name = NO_CLASS
        return
    values = [_class_of(region, attribute) for region in regions]
    names = sorted({value for value in values if value})
    if not names:
        raise UserError(f"no region has the attribute {attribute!r}")
    faults.remark(f"the region attribute {attribute!r} names the class")
    only_class = names[0] if len(names) == 1 else None
    num_unnamed = values.count(None)
    if num_unnamed and only_class is not None:
        count = f"{num_unnamed:,} of {len(regions):,}"
        faults.remark(f"regions without {attribute!r} get the only class, {only_class!r}: {count}")
    for region, value in zip(regions, values, strict=True):
        with counting(faults, LEFT_OUT, region.file, region.place, region.image):
            if value == "":
                choices = show(region.attributes[attribute])
                text = f"{attribute!r}: expected one choice, got {choices}"
                raise FaultError("several classes", text)
            region.obj.name = only_class if value is None else value
            if region.obj.name is None:
                text = f"expected the region attribute {attribute!r}, got none"
                raise FaultError("no class", text)


def _class_attribute(regions: list[_Region]) -> str | None:
    """Return the attribute that most regions have; None if no region has any.

    Raises:
        UserError: several attributes tie and differ in their values, and none has a typical name.
    """
    values: dict[str, dict[int, str]] = defaultdict(dict)
    for index, region in enumerate(regions):
        for name in region.attributes:
            if value := _class_of(region, name):
                values[name][index] = value
    if not values:
        return None
    max_count = max(map(len, values.values()))
    tied = sorted(name for name in values if len(values[name]) == max_count)
    preferred = [
        name
        for class_attribute in CLASS_ATTRIBUTES
        for name in tied
        if name.lower() == class_attribute
    ]
    if preferred:
        return preferred[0]
    # An attribute with a typical name may give the class although some regions lack it.
    common = [name for name in values if len(values[name]) >= max_count / 2]
    tied += sorted(name for name in common if name.lower() in CLASS_ATTRIBUTES)
    if any(values[name] != values[tied[0]] for name in tied):
        counts = ", ".join(f"{name} ({len(values[name]):,})" for name in tied)
        text = f"{quantity(len(regions), 'region has', 'regions have')} the attributes {counts}"
        remedy = "python -m ranking_det.data.convert --class-attribute NAME chooses one"
        raise UserError(f"{text}: it is not clear which of them names the class; {remedy}")
    return tied[0]


def _class_of(region: _Region, attribute: str) -> str | None:
    """Return the class of a region; None if it has none, "" if it has several checked boxes."""
    value = region.attributes.get(attribute)
    if isinstance(value, dict):  # checkboxes
        selected_keys = [key for key, is_set in value.items() if is_set is True or is_set == "true"]
        if len(selected_keys) > 1:
            return ""
        value = selected_keys[0] if selected_keys else None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    text = str(value).strip()
    return region.options.get(attribute, {}).get(text, text) or None
