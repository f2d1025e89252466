"""Find the image files of an annotation file, and read their headers."""

from __future__ import annotations

import functools
import os
import posixpath
import re
from pathlib import Path
from typing import Any

from PIL import Image

from ranking_det.user_errors import UserError, show

_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


class ImageFinder:
    """Finds images in a folder; each folder is listed once, and no file is asked for by itself.

    Args:
        image_root: the folder of the images.
    """

    def __init__(self, image_root: str | Path) -> None:
        self.image_root = str(image_root)
        self._files = functools.cache(_list_files)

    def find(self, image: dict[str, Any]) -> str | None:
        """The path of an image, None if it is missing."""
        for path in self.places(image):
            folder, base = os.path.split(path)
            if base in self._files(folder):
                return path
        return None

    def path(self, image: dict[str, Any]) -> str:
        """As ``find``, but where it should be if it is missing."""
        return self.find(image) or self.places(image)[0]

    def places(self, image: dict[str, Any]) -> list[str]:
        """The paths at which an image may lie; see :func:`candidates`."""
        return [os.path.join(self.image_root, name) for name in candidates(image)]


def _list_files(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if _is_file(entry))
    except PermissionError as error:
        raise UserError(f"the folder {folder!r} may not be read") from error
    except (OSError, ValueError):  # a name that no file can have is a ValueError
        return frozenset()


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # such as a link to itself
        return False


def candidates(image: dict[str, Any]) -> list[str]:
    """Where an image may lie in its folder.

    Args:
        image: its entry in the file, with ``file_name`` or, as in LVIS, ``coco_url``.

    Returns:
        At least one path, without parts that change nothing: the file name, then the last two parts
        of the URL, such as ``train2017/000000000009.jpg``, then the last. LVIS v0.5's names are
        those of COCO's sets of 2014, whose images have other names and lie in either folder of
        2017.
    """
    names = [image["file_name"]] if image.get("file_name") else []
    parts = [part for part in (image.get("coco_url") or "").split("/") if part]
    if parts:
        names += ["/".join(parts[-2:]), parts[-1]]
    old = re.fullmatch(r"COCO_\w+2014_(\d{12}\.jpg)", names[0] if names else "")
    if old:
        names += [f"{folder}/{old[1]}" for folder in ("train2017", "val2017")] + [old[1]]
    # "..", too, goes by the names: the system would follow a link first, and leave the folder.
    return list(dict.fromkeys(map(os.path.normpath, names)))


def check_folder(image_root: str | Path) -> None:
    """Raise UserError unless the folder of the images is there and can be read."""
    if not os.path.isdir(image_root):
        what = "is a file, not a folder" if os.path.exists(image_root) else "does not exist"
        raise UserError(f"the image folder {str(image_root)!r} {what}")
    if not os.access(image_root, os.R_OK | os.X_OK):
        raise UserError(f"the image folder {str(image_root)!r} may not be read")


def check_inside(images: list[Any], image_root: str | Path, json_file: str) -> None:
    """Raise UserError if names of a file's images lead out of their folder.

    Args:
        images: the entries; faulty ones are passed over.
        image_root: the folder, as the message names it.
        json_file: the file, as the message names it.
    """
    leaving = (next(filter(_leaves, _names(image)), None) for image in images)
    outside = [(index, name) for index, name in enumerate(leaving) if name is not None]
    if outside:
        index, name = outside[0]
        text = f"{json_file}: {len(outside)} of {len(images)} images lie outside the image folder"
        first = f"the first: images[{index}], {show(name)}"
        raise UserError(f"{text} {str(image_root)!r} ({first}); --allow-outside permits it")


def _names(image: Any) -> list[str]:
    if not isinstance(image, dict):
        return []
    names = [image.get(key) for key in ("file_name", "coco_url")]
    return candidates(image) if all(isinstance(name, (str, type(None))) for name in names) else []


def _leaves(name: str) -> bool:
    """Whether a path is absolute or climbs, to this system or to Windows; NUL ends it for some."""
    here = posixpath.normpath(name.replace("\\", "/"))
    climbs = here == ".." or here.startswith(("../", "/"))
    return climbs or "\0" in name or name[1:2] == ":"


def read_header(path: str) -> tuple[int, int, str]:
    """Width and height in pixels as Detectron2 reads it, turned as its EXIF says; Pillow's mode."""
    with Image.open(path) as image:
        width, height = image.size
        # Pillow would decode the whole of a PNG to look for an EXIF block at its end.
        if image.format != "PNG" or "exif" in image.info:
            if image.getexif().get(_ORIENTATION) in _SIDEWAYS:
                return height, width, image.mode
        return width, height, image.mode
