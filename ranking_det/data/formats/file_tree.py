"""List the files of a data set once, and find the image that an annotation file refers to."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

from ranking_det.data.coco_json.image_files import loose_name
from ranking_det.data.images import has_image_extension

CONVERSION = "ranking_det.json"
"""The file that marks the conversion of a data set in the output folder of a run."""

IMAGE_FOLDERS = ("JPEGImages", "images", "imgs", "img", "Images")
"""Folders of images next to a folder of annotations."""

_SPLITS = {"train": "train", "training": "train", "trainval": "trainval", "val": "val"}
_SPLITS |= {"valid": "val", "validation": "val", "test": "test", "testing": "test"}
_SPLIT = re.compile(rf"(?<![a-z])({'|'.join(_SPLITS)})(?![a-z])", re.IGNORECASE)


def split_of(path: str) -> str | None:
    """Return the first split that a path names: train, trainval, val or test; None without one.

    Args:
        path: a path below the root of a data set, without the name of the image.

    >>> split_of("images/Valid_2"), split_of("instances_train2017"), split_of("latest")
    ('val', 'train', None)
    """
    for part in path.replace("\\", "/").split("/"):
        match = _SPLIT.search(part)
        if match:
            return _SPLITS[match[1].lower()]
    return None


def suffix_of(path: str) -> str:
    """Return the extension of a path in lower case, such as ".jpg"; "" without one.

    Args:
        path: any path.
    """
    return os.path.splitext(path)[1].lower()


class FileTree:
    """The files below a folder, listed once. Hidden files and folders are skipped.

    Args:
        root: the folder.
        exclude: a folder below the root to skip, such as the output folder of a run.

    Attributes:
        root: its absolute path.
        files: the absolute paths of all files, sorted.
        images: the absolute paths of the image files below the root, sorted. Without any, those in
            the parent folder and its image folders, because annotations often have a separate
            folder.
    """

    def __init__(self, root: str, exclude: str | None = None) -> None:
        self.root = os.path.abspath(root)
        self.files = sorted(_walk(self.root, exclude))
        self.images = [path for path in self.files if has_image_extension(path)]
        if not self.images:
            self.images = sorted(_images_above(self.root))
        self._image_paths = frozenset(self.images)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for path in self.images:
            name = loose_name(os.path.basename(path))
            self._by_name[name].append(path)
            self._by_stem[os.path.splitext(name)[0]].append(path)

    def relative(self, path: str) -> str:
        """Return a path relative to the root.

        Args:
            path: an absolute path.
        """
        return os.path.relpath(path, self.root)

    def with_suffix(self, *suffixes: str) -> list[str]:
        """Return the absolute paths of the files with one of these extensions, sorted.

        Args:
            *suffixes: extensions in lower case, with their dots.
        """
        return [path for path in self.files if suffix_of(path) in suffixes]

    def find_image(self, name: str, folder: str) -> str | None:
        """Find an image by the name that an annotation file gives.

        The full path is tried first. Otherwise only the file name counts, and its case, its form of
        accented letters and its extension may differ. If several images match, the one whose folder
        is nearest to that of the annotation file is returned.

        Args:
            name: a path, with slashes or backslashes, or a URL.
            folder: the folder of the annotation file, an absolute path.

        Returns:
            The absolute path of one of ``images``; None if there is none, or several are equally
            near.
        """
        for text in (name.replace("\\", "/"), unquote(name).replace("\\", "/")):
            for base in (folder, self.root):
                path = os.path.normpath(os.path.join(base, text))
                if path in self._image_paths:
                    return path
            base_name = loose_name(text.rsplit("/", 1)[-1])
            stem = os.path.splitext(base_name)[0]
            by_name = self._by_name.get(base_name)
            for paths in (by_name, self.by_stem(stem), self.by_stem(base_name)):
                if paths:
                    return nearest_path(paths, folder)
        return None

    def by_stem(self, stem: str) -> list[str]:
        """Return the absolute paths of the images with this name before the extension, sorted.

        Args:
            stem: the name without extension, in any case and form of accented letters.
        """
        return self._by_stem.get(loose_name(stem), [])


def nearest_path(paths: Iterable[str], folder: str) -> str | None:
    """Return the path whose folder shares the most path components with another folder.

    Components are compared from both ends, so that ``images/a`` belongs to ``labels/a``.

    Args:
        paths: absolute paths.
        folder: an absolute path.

    Returns:
        One of the paths; None if there is none, or several are equally near.
    """
    scored = sorted((_closeness(os.path.dirname(path), folder), path) for path in paths)
    if not scored or (len(scored) > 1 and scored[-1][0] == scored[-2][0]):
        return None
    return scored[-1][1]


def _closeness(first: str, second: str) -> tuple[bool, int]:
    parts = first.split(os.sep), second.split(os.sep)
    start = len(os.path.commonprefix(parts))
    end = len(os.path.commonprefix([part[::-1] for part in parts]))
    return first == second, start + end


def _walk(root: str, exclude: str | None = None) -> Iterator[str]:
    """Yield all files except hidden ones, a folder to exclude, and output folders of runs."""
    visited = {os.path.realpath(root)} | ({os.path.realpath(exclude)} if exclude else set())
    for folder, names, files in os.walk(root, followlinks=True):
        names[:] = [name for name in names if name[0] != "." and name != "__MACOSX"]
        for name in list(names):
            real_path = os.path.realpath(os.path.join(folder, name))
            markers = (os.path.join(real_path, *parts, CONVERSION) for parts in ((), ("data",)))
            # Excluded, a link that leads upwards, or an output folder inside the data set.
            if real_path in visited or any(map(os.path.exists, markers)):
                names.remove(name)
            visited.add(real_path)
        yield from (os.path.join(folder, name) for name in files if name[0] != ".")


def _images_above(root: str) -> Iterator[str]:
    parent = os.path.dirname(root)
    folder, names, files = next(os.walk(parent), (parent, [], []))
    paths = [os.path.join(folder, name) for name in files if name[0] != "."]
    for name in IMAGE_FOLDERS:
        if name in names:
            paths += _walk(os.path.join(folder, name))
    yield from (path for path in paths if has_image_extension(path))
