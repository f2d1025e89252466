"""Find the image files of a COCO or LVIS JSON, and read their headers."""

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
    """Find image files in a folder; list each folder once instead of testing each file.

    Args:
        image_root: the folder of the images.
    """

    def __init__(self, image_root: str | Path) -> None:
        self.image_root = str(image_root)
        self._files = functools.cache(_list_files)

    def find(self, image: dict[str, Any]) -> str | None:
        """Return the path of an image, or None if it is missing.

        Args:
            image: its entry in the file; see :func:`candidates`.

        Raises:
            UserError: the folder is not readable.
        """
        for path in self.places(image):
            folder, base = os.path.split(path)
            if base in self._files(folder):
                return path
        return None

    def path(self, image: dict[str, Any]) -> str:
        """Return the path of an image, or the first path where it could be if it is missing.

        Args:
            image: its entry in the file; see :func:`candidates`.

        Raises:
            UserError: the folder is not readable.
        """
        return self.find(image) or self.places(image)[0]

    def places(self, image: dict[str, Any]) -> list[str]:
        """Return the paths where an image may be, at least one.

        Args:
            image: its entry in the file; see :func:`candidates`.
        """
        return [os.path.join(self.image_root, name) for name in candidates(image)]


def _list_files(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if _is_file(entry))
    except PermissionError as error:
        raise UserError(f"the folder {folder!r} is not readable") from error
    except (OSError, ValueError):  # ValueError: no file can have this name
        return frozenset()


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # such as a link to itself
        return False


def candidates(image: dict[str, Any]) -> list[str]:
    """Return the paths where an image may be, relative to the image folder.

    LVIS v0.5 has the file names of COCO's sets of 2014. The same images have other names in COCO's
    sets of 2017, and lie in ``train2017`` or ``val2017``.

    Args:
        image: its entry in the file, with ``file_name`` or, as in LVIS, ``coco_url``.

    Returns:
        At least one normalised path: the file name, then the last two parts of the URL, such as
        ``train2017/000000000009.jpg``, then the last part.
    """
    names = [image["file_name"]] if image.get("file_name") else []
    parts = [part for part in (image.get("coco_url") or "").split("/") if part]
    if parts:
        names += ["/".join(parts[-2:]), parts[-1]]
    old = re.fullmatch(r"COCO_\w+2014_(\d{12}\.jpg)", names[0] if names else "")
    if old:
        names += [f"{folder}/{old[1]}" for folder in ("train2017", "val2017")] + [old[1]]
    # ".." is resolved in the name. The system would follow a link first, and so leave the folder.
    return list(dict.fromkeys(map(os.path.normpath, names)))


def check_folder(image_root: str | Path) -> None:
    """Check that the image folder exists and is readable.

    Args:
        image_root: the folder of the images.

    Raises:
        UserError: it is missing, a file, or not readable.
    """
    if not os.path.isdir(image_root):
        what = "is a file, not a folder" if os.path.exists(image_root) else "does not exist"
        raise UserError(f"the image folder {str(image_root)!r} {what}")
    if not os.access(image_root, os.R_OK | os.X_OK):
        raise UserError(f"the image folder {str(image_root)!r} is not readable")


def check_inside(images: list[Any], image_root: str | Path, json_file: str) -> None:
    """Check that no image name leads out of the image folder (path traversal).

    Args:
        images: the entries of the images; faulty ones are skipped.
        image_root: the folder, as the message names it.
        json_file: the file, as the message names it.

    Raises:
        UserError: a name is absolute or climbs out of the folder. The message counts such names.
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
    """Return whether a path is absolute or climbs, here or on Windows, or holds NUL.

    Some programs end a name at NUL.
    """
    here = posixpath.normpath(name.replace("\\", "/"))
    climbs = here == ".." or here.startswith(("../", "/"))
    return climbs or "\0" in name or name[1:2] == ":"


def read_header(path: str) -> tuple[int, int, str]:
    """Read the size of an image from its header, after the EXIF rotation, as Detectron2 sees it.

    Args:
        path: the image file.

    Returns:
        Width and height in pixels, and Pillow's mode, such as "RGB".

    Raises:
        Exception: the file is broken. Pillow's readers raise many kinds.
    """
    with Image.open(path) as image:
        width, height = image.size
        # Pillow would decode a whole PNG to look for an EXIF block at its end.
        if image.format != "PNG" or "exif" in image.info:
            if image.getexif().get(_ORIENTATION) in _SIDEWAYS:
                return height, width, image.mode
        return width, height, image.mode
