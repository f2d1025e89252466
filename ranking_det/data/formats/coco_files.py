"""Find COCO JSON files and their images, as annotation tools export them; convert their boxes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ranking_det.data.coco_json.faults import Faults
from ranking_det.data.coco_json.fields import read_boxes, read_fields
from ranking_det.data.coco_json.image_files import ImageFinder
from ranking_det.data.coco_json.rules import drop_unused_categories
from ranking_det.data.formats.file_tree import split_of
from ranking_det.user_errors import UserError, show

NAME = "COCO JSON"
ANNOTATION_FOLDERS = ("annotations", "annotation", "labels", "json")
BOX_FORMS = ("xywh", "xyxy", "normalized")
"""x, y, width, height in pixels; x1, y1, x2, y2 in pixels; x, y, width, height as fractions of the
width and height of the image."""

_NUM_PROBED = 20  # images that are looked for in each folder, to recognize the image folder


class CocoSplit(NamedTuple):
    """A split of a data set as COCO JSON.

    Attributes:
        content: images, annotations and categories; read-only.
        image_root: the folder to which each ``file_name`` is relative.
        json_file: the file with this content; None if no file has it yet.
    """

    content: dict[str, Any]
    image_root: str
    json_file: str | None


def is_coco(content: Any) -> bool:
    """Return whether a JSON file contains objects in the format of COCO or LVIS.

    Files of captions have no categories; those of panoptic segmentation have ``segments_info``.

    Args:
        content: the content of the file.
    """
    if not isinstance(content, dict):
        return False
    annotations = content.get("annotations") or []
    sections = content.get("images"), content.get("categories"), annotations
    if not all(isinstance(section, list) for section in sections):
        return False
    return not any(isinstance(a, dict) and "segments_info" in a for a in annotations[:1])


def find_splits(root: str, contents: Mapping[str, Any]) -> dict[str, CocoSplit]:
    """Find the split and the image folder of COCO files.

    Args:
        root: the folder of the data set, an absolute path.
        contents: the contents of the files by path.

    Returns:
        The files by split. The name of a file, or else of its folder, names the split; "all" if
        neither does.

    Raises:
        UserError: several files belong to one split, or no folder has the images of a file.
    """
    splits: dict[str, list[str]] = {}
    for path in contents:
        name = os.path.relpath(path, root)
        # The file name has priority: annotations/train/instances_val.json belongs to val.
        split = split_of(os.path.basename(path)) or split_of(os.path.dirname(name)) or "all"
        splits.setdefault(split, []).append(path)
    paths_of_splits = {split: _choose(root, split, paths) for split, paths in splits.items()}
    return {
        split: CocoSplit(contents[path], _image_root(path, contents[path]), path)
        for split, path in paths_of_splits.items()
    }


def _choose(root: str, split: str, paths: list[str]) -> str:
    """Return the file with boxes among those of a split, such as COCO's own instances_*.json."""
    names = ("instances", "_annotations.coco")
    detection_files = [path for path in paths if os.path.basename(path).startswith(names)]
    choices = detection_files or paths
    if len(choices) > 1:
        files = ", ".join(os.path.relpath(path, root) for path in choices[:5])
        split_text = "" if split == "all" else f" of {split} images"
        raise UserError(f"{root}: several COCO files{split_text} ({files}); give one of them")
    return choices[0]


def _image_root(json_file: str, content: Mapping[str, Any]) -> str:
    """Return the folder with the most images of a file, by exact names or else by similar ones."""
    section = {"images": content["images"][:_NUM_PROBED]}
    entries = read_fields(section, json_file, "images", "file_name", "coco_url").entries
    images = [entry for entry in entries if entry.get("file_name") or entry.get("coco_url")]
    finders = [ImageFinder(folder) for folder in dict.fromkeys(_image_folders(json_file))]
    for find in (ImageFinder.find, ImageFinder.guess):
        best, max_count = "", 0
        for finder in finders:
            count = sum(find(finder, image) is not None for image in images)
            if count > max_count:
                best, max_count = finder.image_root, count
            if max_count == len(images):
                break
        if max_count:
            return best
    names = show(images[0].get("file_name") or images[0].get("coco_url")) if images else "names"
    searched_folders = ", ".join(finder.image_root for finder in finders[:3])
    ending = f" and {len(finders) - 3} others" if len(finders) > 3 else ""
    text = f"{json_file}: no folder has its images ({names}); looked in {searched_folders}{ending}"
    raise UserError(f"{text}; name it with --train-json FILE --train-images FOLDER (or --val-...)")


def _image_folders(json_file: str) -> Iterator[str]:
    """Yield the folders where the images of a file may lie, the likeliest first."""
    folder, name = os.path.split(json_file)
    stem = os.path.splitext(name)[0]
    names = [stem, stem.removeprefix("instances_"), split_of(stem) or "", "images", "JPEGImages"]
    for base in (folder, os.path.dirname(folder)):
        yield base
        for sub in filter(None, names):
            yield os.path.join(base, sub)
            yield os.path.join(base, "images", sub)
        # Folders next to the folder of the file may belong to other data sets, unless that folder
        # is for annotations only.
        if base == folder or os.path.basename(folder).lower() in ANNOTATION_FOLDERS:
            yield from _subfolders(base)
            yield from _subfolders(os.path.join(base, "images"))


def _subfolders(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.path for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError:
        return []


def class_names(parts: Sequence[CocoSplit]) -> list[str]:
    """Return the names of the classes of COCO files.

    Args:
        parts: the files.

    Returns:
        The names, each once, in the order of the files. Root categories are not classes.

    Raises:
        UserError: a category has no name, or two share a name or id.
    """
    names: dict[str, None] = {}
    for content, _, json_file in parts:
        data_name = json_file or ""
        categories = read_fields(content, data_name, "categories", "id", "name").entries
        used_ids = read_fields(content, data_name, "annotations", "category_id").columns[
            "category_id"
        ]
        faults = Faults(data_name)
        classes = drop_unused_categories(categories, set(used_ids), faults)
        faults.check()
        names |= dict.fromkeys(category["name"] for category in classes)
    return list(names)


def convert_boxes(content: dict[str, Any], form: str, data_name: str) -> dict[str, Any]:
    """Return a COCO JSON with boxes as x, y, width, height in pixels.

    Args:
        content: the content of the file; it is not changed.
        form: the form of its boxes, one of :data:`BOX_FORMS`.
        data_name: the name of the file in messages.

    Returns:
        The content with converted boxes. The area of an object without a mask is that of its box.

    Raises:
        UserError: most boxes have no size or are not within 0 to 1 when they are read in this
            form; or an entry is faulty.
    """
    if form == "xywh":
        return content
    section, faults = read_fields(content, data_name, "annotations", "image_id"), Faults(data_name)
    boxes = read_boxes("annotations", section.entries, faults, Counter()).xywh
    faults.check()
    has_box = [bool(annotation.get("bbox")) for annotation in section.entries]
    num_large = int((boxes[has_box] > 1).any(1).sum())
    if form == "normalized" and num_large > len(boxes) / 2:
        text = f"{num_large:,} of {len(boxes):,} boxes have numbers above 1 and are not {form}"
        raise UserError(f"{data_name}: {text}; give the form of the boxes in the file")
    if form == "xyxy":
        boxes[:, 2:] -= boxes[:, :2]
    else:
        images = read_fields(content, data_name, "images", "id", "width", "height").entries
        sizes = {image["id"]: [image["width"], image["height"]] for image in images}
        unknown = [np.nan, np.nan]
        boxes *= np.array([2 * sizes.get(i, unknown) for i in section.columns["image_id"]]).reshape(
            -1, 4
        )
    num_empty = int((boxes[has_box, 2:] <= 0).any(1).sum())
    if num_empty > len(boxes) / 2:
        text = f"{num_empty:,} of {len(boxes):,} boxes have no positive size when read as {form}"
        raise UserError(f"{data_name}: {text}; give the form of the boxes in the file")
    annotations = []
    for annotation, box, is_annotated in zip(section.entries, boxes.tolist(), has_box, strict=True):
        if is_annotated:  # an object without a box gets that of its mask, which is in pixels
            annotation = {**annotation, "bbox": box}
            if not annotation.get("segmentation"):
                annotation["area"] = max(box[2], 0) * max(box[3], 0)
        annotations.append(annotation)
    return {**content, "annotations": annotations}
