"""Find COCO JSON files and their images, as annotation tools export them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ranking_det.data.coco_json.image_files import ImageFinder
from ranking_det.data.formats.coco_objects import category_names, identity_of
from ranking_det.data.formats.file_tree import FileTree, loose_name, split_of
from ranking_det.user_errors import UserError, show

NAME = "COCO JSON"
ANNOTATION_FOLDERS = ("annotations", "annotation", "labels", "json")
_LOOKED_FOR = 20  # images by which the folder of images is recognised


class CocoFile(NamedTuple):
    """A COCO JSON file and the folder of its images.

    Attributes:
        json_file: the path of the file.
        content: its content, which nobody may change.
        image_root: the folder of its images.
    """

    json_file: str
    content: dict[str, Any]
    image_root: str


def is_coco(content: Any) -> bool:
    """Return whether the content of a JSON file is that of COCO's or LVIS's objects.

    Files of captions and of panoptic segmentation are others.

    Args:
        content: the content.

    Returns:
        False for files of captions and of panoptic segmentation, too.
    """
    if not isinstance(content, dict):
        return False
    if not all(isinstance(content.get(key), list) for key in ("images", "categories")):
        return False
    annotations = content.get("annotations") or []
    if not isinstance(annotations, list):
        return False
    first = annotations[0] if annotations else None
    return not (isinstance(first, dict) and "segments_info" in first)


def find_splits(root: str, contents: Mapping[str, Any]) -> dict[str, CocoFile]:
    """Find the split and the image folder of COCO files.

    Args:
        root: the folder of the data set, an absolute path.
        contents: the contents of the files by path.

    Returns:
        The files by split, which the name or the folder of a file gives, else "all".

    Raises:
        UserError: several files are of one split, or no folder has the images of a file.
    """
    splits: dict[str, list[str]] = {}
    for path in contents:
        name = os.path.relpath(path, root)
        # The file's own name counts first: annotations/train/instances_val.json.
        split = split_of(os.path.basename(path)) or split_of(os.path.dirname(name)) or "all"
        splits.setdefault(split, []).append(path)
    chosen = {split: _choose(root, split, paths) for split, paths in splits.items()}
    return {
        split: CocoFile(path, contents[path], _image_root(path, contents[path]))
        for split, path in chosen.items()
    }


def _choose(root: str, split: str, paths: list[str]) -> str:
    """Return the file with boxes among those of a split, such as COCO's own instances_*.json."""
    names = ("instances", "_annotations.coco")
    usual = [path for path in paths if os.path.basename(path).startswith(names)]
    choices = usual or paths
    if len(choices) > 1:
        files = ", ".join(os.path.relpath(path, root) for path in choices[:5])
        which = "" if split == "all" else f" of {split} images"
        raise UserError(f"{root}: several COCO files{which} ({files}); give one of them")
    return choices[0]


def _image_root(json_file: str, content: Mapping[str, Any]) -> str:
    images = [image for image in content["images"] if _is_named(image)][:_LOOKED_FOR]
    best, most, tried = None, 0, []
    for folder in dict.fromkeys(_image_folders(json_file)):
        tried.append(folder)
        finder = ImageFinder(folder)
        count = sum(finder.find(image) is not None for image in images)
        if count > most:
            best, most = folder, count
        if most == len(images):
            break
    if best is None:
        best = _root_of_similar_name(json_file, images)
    if best is None:
        names = show(images[0].get("file_name") or images[0].get("coco_url")) if images else "names"
        text = f"{json_file}: no folder has its images ({names})"
        others = f" and {len(tried) - 3} others" if len(tried) > 3 else ""
        raise UserError(f"{text}; looked in {', '.join(tried[:3])}{others}")
    return best


def _root_of_similar_name(json_file: str, images: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the folder of images that have other forms of their names: case, letters, slashes."""
    folder = os.path.dirname(json_file)
    tree = FileTree(folder)
    for image in images:
        name = str(image.get("file_name") or image.get("coco_url")).replace("\\", "/")
        path = tree.find_image(name, folder)
        if path is None:
            continue
        root = os.path.dirname(path)
        for part in reversed(name.split("/")[:-1]):
            if loose_name(os.path.basename(root)) != loose_name(part):
                break
            root = os.path.dirname(root)
        return root
    return None


def _is_named(image: Any) -> bool:
    if not isinstance(image, dict):
        return False
    names = [image.get(key) for key in ("file_name", "coco_url")]
    return any(names) and all(isinstance(name, (str, type(None))) for name in names)


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
        # Folders next to that of the file may be of other data sets, unless it is one of
        # annotations only.
        if base == folder or os.path.basename(folder).lower() in ANNOTATION_FOLDERS:
            yield from _subfolders(base)
            yield from _subfolders(os.path.join(base, "images"))


def _subfolders(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            found = [entry.path for entry in entries if entry.is_dir() and entry.name[0] != "."]
    except OSError:
        return []
    return sorted(found)


def used_classes(files: Mapping[str, CocoFile]) -> list[str]:
    """Return the names of the classes of COCO files.

    Some tools export a root category: it has no annotations and is the supercategory of the others.
    It is not a class.

    Args:
        files: the files by split.

    Returns:
        The names, each once, in the order of the files.
    """
    names: dict[str, None] = {}
    used = {
        identity_of(annotation.get("category_id"))
        for file in files.values()
        for annotation in file.content.get("annotations") or []
        if isinstance(annotation, dict)
    }
    for file in files.values():
        categories = [entry for entry in file.content["categories"] if isinstance(entry, dict)]
        roots = {str(entry.get("supercategory")) for entry in categories}
        by_identity = category_names(file.content)
        for identity, name in by_identity.items():
            # In a file of one class, it may be its own supercategory.
            if identity in used or name not in roots or len(by_identity) == 1:
                names[name] = None
    return list(names)
