"""Read YOLO data sets, of boxes or polygons: a text file per image.

Each line is an object: the index of its class, then the center, width and height of its box, or the
points of its polygon, as fractions of the image's width and height. ``data.yaml`` names the classes
and the folders of the splits. The format is that of https://docs.ultralytics.com/datasets/detect/
and https://docs.ultralytics.com/datasets/segment/. An image without a text file, or with an empty
one, has no objects.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import yaml

from ranking_det.data.coco_json.faults import LEFT_OUT, Faults
from ranking_det.data.formats.annotated_images import (
    AnnotatedImage,
    AnnotatedObject,
    FaultError,
    counting,
    extent,
    to_numbers,
)
from ranking_det.data.formats.file_tree import FileTree, split_of
from ranking_det.data.images import has_image_extension
from ranking_det.user_errors import UserError, quantity, show

NAME = "YOLO"
SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
CLASS_FILES = (
    "classes.txt",
    "obj.names",
    "_darknet.labels",
    "labels.txt",
    "predefined_classes.txt",
)
YAML_FILES = ("data.yaml", "dataset.yaml")
_IMAGES_PART = re.compile(r"(.*/)(?:images|jpegimages|imgs|img)(/.*)?$", re.IGNORECASE)
_LEVELS_ABOVE = 3
_MAX_CLASSES = 10_000  # without names; a larger index is another number, such as an id
_MAX_FRACTION = 2.0  # a box that sticks out of its image has fractions slightly above 1
_NUM_PROBED = 50  # label files that are opened to recognize the format


class Description(NamedTuple):
    """The description of a YOLO data set: its ``data.yaml``, if it has one.

    Attributes:
        yaml_file: the path of the file; None without one.
        content: the content of the file; empty without one.
    """

    yaml_file: str | None
    content: Mapping[str, Any]


def find_files(tree: FileTree, yaml_file: str | None = None) -> Description | None:
    """Return the description of a YOLO data set; None if the folder does not contain one.

    Args:
        tree: the files of the folder.
        yaml_file: the ``data.yaml`` that the user named; None to look for one.

    Raises:
        UserError: the file that the user named, or one of several, cannot be used.
    """
    candidates = [yaml_file] if yaml_file else tree.with_suffix(".yaml", ".yml")
    contents = {path: _read_yaml(path) for path in candidates}
    descriptions = {path: content for path, content in contents.items() if content is not None}
    yaml_files = [path for path in candidates if os.path.basename(path) in YAML_FILES]
    for path in yaml_files if not descriptions else ():
        _check_yaml(path)
    if yaml_file and not descriptions:
        keys = "'names' and 'train' or 'val'"
        raise UserError(f"{yaml_file}: expected a YOLO data.yaml with {keys}")
    if len(descriptions) > 1:
        files = ", ".join(map(tree.relative, descriptions))
        raise UserError(f"{tree.root}: several YOLO descriptions ({files}); give one of them")
    if descriptions:
        ((path, content),) = descriptions.items()
        return Description(path, content)
    labels = islice(filter(None, map(_label_file, tree.images)), _NUM_PROBED)
    return Description(None, {}) if any(map(_has_labels, labels)) else None


def _read_yaml(path: str) -> Mapping[str, Any] | None:
    """Return the content of a data.yaml; None if it is another file."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = yaml.safe_load(file)
    except (yaml.YAMLError, OSError, ValueError):
        return None
    if not isinstance(content, dict) or not content.keys() & SPLIT_KEYS.keys():
        return None
    return content if content.keys() & {"names", "nc"} else None


def _check_yaml(path: str) -> None:
    """Raise UserError if a file is not YAML; ignoring it would change the class names."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            yaml.safe_load(file)
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as YAML in UTF-8 ({reason})") from None


def _has_labels(path: str) -> bool:
    line = next((line for line in _lines(path) if line.strip()), "")
    numbers = to_numbers(line.split())
    return numbers is not None and len(numbers) >= 5 and numbers[0] == int(numbers[0]) >= 0


def _label_file(image: str) -> str | None:
    """Return the existing label file of an image; None without one.

    The label folder is the image folder with the last "images" in its path replaced by "labels".
    Otherwise the file may lie next to the image, in a subfolder "labels", or in a folder "labels"
    next to the image folder, directly or in a subfolder with the name of the image folder.
    """
    folder, name = os.path.split(os.path.splitext(image)[0])
    parent, folder_name = os.path.split(folder)
    replaced = _IMAGES_PART.sub(r"\1labels\2", folder), _IMAGES_PART.sub(r"\1Labels\2", folder)
    nearby = (f"{folder}/labels", f"{parent}/labels/{folder_name}", f"{parent}/labels")
    paths = (f"{place}/{name}.txt" for place in dict.fromkeys((*replaced, folder, *nearby)))
    return next(filter(os.path.isfile, paths), None)


def read(
    tree: FileTree, description: Description, faults: Faults, *, allow_outside: bool = False
) -> tuple[dict[str, list[AnnotatedImage]], list[str]]:
    """Read the label files.

    Args:
        tree: the files of the folder.
        description: the description of the data set.
        faults: receives what is left out, and remarks.
        allow_outside: accept images outside the folder of ``data.yaml``.

    Returns:
        The images by split: "train", "val", "test", or "all" without splits; the class names.

    Raises:
        UserError: a folder of a split is missing, images lie outside the folder, a class has no
            name, or no image has labels.
    """
    paths: dict[str, list[str]] = {}
    if description.yaml_file is not None:
        paths = _find_splits(description.yaml_file, description.content, faults)
        _check_inside(description.yaml_file, paths, faults, allow_outside)
    for path in tree.images if description.yaml_file is None else ():
        split = split_of(os.path.dirname(tree.relative(path))) or "all"
        paths.setdefault(split, []).append(path)
    keypoints = "kpt_shape" in description.content
    splits: dict[str, list[AnnotatedImage]] = {}
    objects: list[AnnotatedObject] = []
    num_images = num_unlabeled = 0
    for split, members in paths.items():
        splits[split] = []
        for path in members:
            label_file = _label_file(path)
            image = _read_image(path, label_file, keypoints, faults)
            splits[split].append(image)
            objects += image.objects
            num_images += 1
            num_unlabeled += label_file is None
    if num_unlabeled:
        count = f"{num_unlabeled:,} of {num_images:,}"
        faults.remark(f"images without a label file count as images without objects: {count}")
    if not objects:
        source = description.yaml_file or tree.root
        reason = f"; the first fault: {faults.rows[0]}" if faults.rows else ""
        text = f"none of {num_images:,} images has a label file with objects"
        raise UserError(f"{source}: {text}{reason}")
    names = _class_names(tree, description, objects, faults)
    for obj in objects:
        obj.name = names[int(obj.name or 0)]
    return splits, names


def _find_splits(
    yaml_file: str, content: Mapping[str, Any], faults: Faults
) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    missing = []
    for key, split in SPLIT_KEYS.items():
        values = content.get(key)
        for value in values if isinstance(values, list) else [values]:
            if not value:
                continue
            place = _find_place(yaml_file, content.get("path"), str(value))
            if place is None:
                missing.append(f"{key}: {value}")
                continue
            images = splits.setdefault(split, [])
            known_images = set(images)
            images += [path for path in _images_of(place, yaml_file) if path not in known_images]
    if not splits or (missing and missing[0].startswith("train")):
        text = f"{yaml_file}: no folder or list of images at {', '.join(missing) or 'any key'}"
        raise UserError(f"{text} (looked in {os.path.dirname(yaml_file)}); correct the paths")
    for text in missing:
        faults.remark(f"{yaml_file}: found no folder or list at {text}")
    return {split: images for split, images in splits.items() if images}


def _check_inside(
    yaml_file: str, splits: Mapping[str, Iterable[str]], faults: Faults, allow_outside: bool
) -> None:
    """Refuse images outside the folder of a data.yaml, or remark on them if they are permitted."""
    folder = os.path.dirname(yaml_file)
    for split, images in splits.items():
        outside_images = [path for path in images if not path.startswith(os.path.join(folder, ""))]
        if outside_images:
            count, first = len(outside_images), outside_images[0]
            lying = quantity(count, f"{split} image lies", f"{split} images lie")
            text = f"{lying} outside {folder}, such as {first}"
            if not allow_outside:
                raise UserError(f"{yaml_file}: {text}; --allow-outside permits it")
            faults.remark(text)


def _find_place(yaml_file: str, path: Any, value: str) -> str | None:
    """Return the folder or list of a split.

    The paths in the file often come from the machine that wrote it, or lead out of its folder
    (``../train/images``) although the images lie in it. The last parts of such a path are therefore
    tried from the folder of the file. For a path that leads out, they are tried first, because
    another data set next to this folder may have the same names.
    """
    folder, value = os.path.dirname(yaml_file), value.replace("\\", "/")
    places = [os.path.join(folder, str(path or ""), value), os.path.join(folder, value)]
    parts = [part for part in value.split("/") if part not in ("", ".", "..")]
    places_inside = [os.path.join(folder, *parts[i:]) for i in range(len(parts))]
    places = [*places_inside, *places] if value.startswith("..") else [*places, *places_inside]
    return next((os.path.normpath(place) for place in places if os.path.exists(place)), None)


def _images_of(place: str, yaml_file: str) -> list[str]:
    if os.path.isdir(place):
        # Not tree.images, which falls back on the parent folder.
        tree = FileTree(place)
        return [path for path in tree.files if has_image_extension(path)]
    if has_image_extension(place):
        return [place]
    images = []
    for line in filter(None, map(str.strip, _lines(place))):
        path = _find_place(place, None, line) or _find_place(yaml_file, None, line)
        if path is None:
            raise UserError(f"{place}: no image file {show(line)}")
        images.append(path)
    return images


def _read_image(
    path: str, label_file: str | None, keypoints: bool, faults: Faults
) -> AnnotatedImage:
    image = AnnotatedImage(path, normalized=True)
    for number, line in enumerate(_lines(label_file) if label_file else [], start=1):
        fields = line.replace(",", " ").split()
        if fields:
            with counting(faults, LEFT_OUT, label_file or "", f"line {number}", path):
                image.objects.append(_read_line(fields, keypoints))
                image.objects[-1].place = f"{label_file}, line {number}"
    return image


def _read_line(fields: Sequence[str], keypoints: bool) -> AnnotatedObject:
    """Read an object; ``name`` holds the class index until the class names are known.

    Raises:
        FaultError: the line is not an object.
    """
    numbers = to_numbers(fields)
    if numbers is None or numbers[0] < 0 or numbers[0] != int(numbers[0]):
        text = f"expected a class index and numbers, got {show(' '.join(fields))}"
        raise FaultError("malformed line", text)
    index, values = str(int(numbers[0])), numbers[1:]
    if max(values, default=0) > _MAX_FRACTION:
        text = f"expected fractions of the width and height, got {show(' '.join(fields))}"
        raise FaultError("numbers in pixels", text)
    if keypoints:
        values = values[:4]
    if len(values) == 4:
        x, y, width, height = values
        return AnnotatedObject(index, (x - width / 2, y - height / 2, width, height))
    if len(values) >= 6 and len(values) % 2 == 0:
        return AnnotatedObject(index, extent([values]), [values])
    expected = "expected 5 numbers, or a class index and at least 3 points"
    count = quantity(len(fields), "number", "numbers")
    raise FaultError("malformed line", f"{expected}, got {count}")


def _lines(path: str) -> list[str]:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return file.readlines()


def _class_names(
    tree: FileTree, description: Description, objects: Iterable[AnnotatedObject], faults: Faults
) -> list[str]:
    """Return the names of the classes by index.

    Raises:
        UserError: a label has an index that has no name.
    """
    last_object = max(objects, key=lambda obj: int(obj.name or 0))
    count = int(last_object.name or 0) + 1
    names, names_file = _described_names(description), description.yaml_file
    if names is None:
        names_file, names = _names_nearby(tree)
    if names is None:
        declared = description.content.get("nc")
        count = max(count, declared) if isinstance(declared, int) else count
        if count > _MAX_CLASSES:
            text = f"without class names, expected an index below {_MAX_CLASSES:,}"
            raise UserError(f"{last_object.place}: {text}, got {count - 1}")
        names = [f"class_{index}" for index in range(count)]
        text = "no class names (data.yaml or classes.txt)"
        faults.remark(f"{text}: the classes are class_0 to {names[-1]}")
    if count > len(names):
        expected = f"expected a class index below {len(names)}, the number of names in {names_file}"
        raise UserError(f"{last_object.place}: {expected}, got {last_object.name}")
    repeated = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if repeated is not None:
        raise UserError(f"{names_file}: two classes have the name {show(repeated)}")
    return names


def _names_nearby(tree: FileTree) -> tuple[str | None, list[str] | None]:
    """Return a file of class names in the folder or up to three levels above, and its names."""
    files = [path for path in tree.files if os.path.basename(path) in CLASS_FILES]
    folder = tree.root
    for _ in range(_LEVELS_ABOVE):
        folder = os.path.dirname(folder)
        paths = [os.path.join(folder, name) for name in (*YAML_FILES, *CLASS_FILES)]
        files += [path for path in paths if os.path.isfile(path)]
    for path in files:
        if path.endswith(YAML_FILES):
            content = _read_yaml(path)
            names = content and _described_names(Description(path, content))
        else:
            names = [line.strip() for line in _lines(path) if line.strip()]
        if names:
            return path, names
    return None, None


def _described_names(description: Description) -> list[str] | None:
    """Return the names of a data.yaml, which are a list, or a dict by index; None without any."""
    names, names_file = description.content.get("names"), description.yaml_file
    if not names:
        return None
    if isinstance(names, dict):
        indices = to_numbers(names) or []
        if sorted(indices) != list(range(len(names))):
            expected = f"expected the indices 0 to {len(names) - 1}"
            raise UserError(f"{names_file}: 'names': {expected}, got {show(list(names))}")
        names = [names[key] for key in sorted(names, key=float)]
    if isinstance(names, str):
        names = [names]
    if not isinstance(names, list):
        raise UserError(f"{names_file}: 'names': expected a list, got {show(names)}")
    for name in names:
        if name is None or isinstance(name, bool):  # YAML reads yes, no, on and off as booleans
            text = f"'names': expected strings, got {show(name)}; put such names in quotes"
            raise UserError(f"{names_file}: {text}")
    return [str(name).strip() for name in names]
