"""Find the image files of an annotation file, and check that they can be read."""

from __future__ import annotations

import difflib
import functools
import os
import posixpath
import re
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from ranking_det.data import images as image_reading
from ranking_det.data.coco_json.faults import NOTED, REFUSED, SHOWN, SKIPPED, Faults
from ranking_det.data.coco_json.fields import Entry
from ranking_det.data.images import IMAGE_SUFFIXES
from ranking_det.user_errors import UserError, quantity, show

UNREADABLE = "unreadable image"
"""The kind of the faults of images that cannot be decoded. Training and evaluation skip them."""

UNROTATED = "image read without its EXIF rotation"
"""The kind of the notes on images whose annotated size is their size before the EXIF rotation."""

_THREADS = 8


class Folder(NamedTuple):
    """The files of a folder.

    Attributes:
        names: the names on disk.
        by_name: the names by their :func:`loose_name`.
        by_stem: the names of images by the :func:`loose_name` of the name without the extension.
    """

    names: frozenset[str]
    by_name: Mapping[str, list[str]]
    by_stem: Mapping[str, list[str]]


class ImageFinder:
    """Find images in a folder; each folder is listed once.

    An image with another name on disk is found if exactly one file has the name in another case,
    with another Unicode form of its accented letters, or with another image extension.

    Args:
        image_root: the folder of the images.
    """

    def __init__(self, image_root: str | Path) -> None:
        self.image_root = str(image_root)
        self._folder = functools.cache(_list_folder)

    def find(self, image: Entry) -> str | None:
        """Return the path of an image under one of the names in its entry, None if it is missing.

        Args:
            image: its entry.
        """
        for path in self.places(image):
            folder, base = os.path.split(path)
            if base in self._folder(folder).names:
                return path
        return None

    def guess(self, image: Entry) -> str | None:
        """Return the path of the only file with a similar name; None if there is none or several.

        Args:
            image: its entry.
        """
        places = [os.path.split(path) for path in self.places(image)]
        if image.get("file_name"):
            base = re.split(r"[/\\]", unquote(image["file_name"]))[-1]
            places.append((self.image_root, base))
        for folder, base in places:
            files = self._folder(folder)
            name = loose_name(base)
            for matches in (files.by_name.get(name), files.by_stem.get(os.path.splitext(name)[0])):
                if matches and len(matches) == 1:
                    return os.path.join(folder, matches[0])
        return None

    def places(self, image: dict[str, Any]) -> list[str]:
        """Return the paths where an image may be; see :func:`candidates`.

        Args:
            image: its entry.
        """
        return [os.path.join(self.image_root, name) for name in candidates(image)]

    def nearest(self, image: dict[str, Any]) -> str:
        """Return `` (did you mean 'x.jpg'?)`` for the most similar name on disk, "" without one.

        Args:
            image: its entry.
        """
        folder, base = os.path.split(self.places(image)[0])
        close = difflib.get_close_matches(base, self._folder(folder).names, n=1)
        return f" (did you mean {close[0]!r}?)" if close else ""


def loose_name(name: str) -> str:
    """Normalize the case and the accented letters of a name, so that similar names are equal.

    Args:
        name: the name of a file.
    """
    return unicodedata.normalize("NFC", name).casefold()


def _list_folder(folder: str) -> Folder:
    names = _list_files(folder)
    by_name, by_stem = defaultdict(list), defaultdict(list)
    for name in names:
        by_name[loose_name(name)].append(name)
        stem, extension = os.path.splitext(name)
        if extension.lower() in IMAGE_SUFFIXES:
            by_stem[loose_name(stem)].append(name)
    return Folder(names, by_name, by_stem)


def _list_files(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if _is_file(entry))
    except PermissionError as error:
        raise UserError(f"the folder {folder!r} is not readable") from error
    except (OSError, ValueError):  # a name that no file can have is a ValueError
        return frozenset()


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # such as a link to itself
        return False


def candidates(image: dict[str, Any]) -> list[str]:
    """Return the paths where an image may be, relative to the image folder.

    LVIS v0.5 has the file names of COCO's 2014 sets. The same images have other names in COCO's
    2017 sets, and lie in ``train2017`` or ``val2017``.

    Args:
        image: its entry in the file, with ``file_name`` or, as in LVIS, ``coco_url``.

    Returns:
        Normalized paths: the file name; the last two parts of the URL, such as
        ``train2017/000000000009.jpg``; the last part; then the same with backslashes as slashes and
        ``%20`` as a space.
    """
    names = [image["file_name"]] if image.get("file_name") else []
    parts = [part for part in re.split(r"[?#]", image.get("coco_url") or "")[0].split("/") if part]
    if parts:
        names += ["/".join(parts[-2:]), parts[-1]]
    coco_2014 = re.fullmatch(r"COCO_\w+2014_(\d{12}\.jpg)", names[0] if names else "")
    if coco_2014:
        names += [f"{folder}/{coco_2014[1]}" for folder in ("train2017", "val2017")] + [
            coco_2014[1]
        ]
    if any(character in name for name in names for character in "\\%"):
        names += [unquote(name).replace("\\", "/") for name in names]
    # ".." is resolved in the name. The system would follow links first, and could leave the folder.
    return list(dict.fromkeys(map(os.path.normpath, filter(None, names))))


def check_folder(image_root: str | Path) -> None:
    """Check that the image folder exists and is readable.

    Args:
        image_root: the folder of the images.

    Raises:
        UserError: it is missing, a file, or not readable.
    """
    if not os.path.isdir(image_root):
        problem = "is a file, not a folder" if os.path.exists(image_root) else "does not exist"
        raise UserError(f"the image folder {str(image_root)!r} {problem}")
    if not os.access(image_root, os.R_OK | os.X_OK):
        raise UserError(f"the image folder {str(image_root)!r} is not readable")


def check_inside(images: Sequence[Entry], image_root: str | Path, json_file: str) -> None:
    """Check that no image name leads out of the image folder (path traversal).

    Args:
        images: the entries of the images.
        image_root: the folder, as the message names it.
        json_file: the file, as the message names it.

    Raises:
        UserError: a name is absolute or leads out of the folder. The message counts such names.
    """
    leaving = (next(filter(_leaves, candidates(image)), None) for image in images)
    outside = [(index, name) for index, name in enumerate(leaving) if name is not None]
    if outside:
        index, name = outside[0]
        total = f"of {len(images)} images"
        count = quantity(len(outside), f"{total} lies", f"{total} lie")
        text = f"{json_file}: {count} outside the image folder"
        first = f"the first: images[{index}], {show(name)}"
        raise UserError(f"{text} {str(image_root)!r} ({first}); --allow-outside permits it")


def _leaves(name: str) -> bool:
    """Return whether a path is absolute or leads out of its folder, on any system, or contains NUL.

    Some programs end a name at NUL.
    """
    normalized = posixpath.normpath(name.replace("\\", "/"))
    climbs = normalized == ".." or normalized.startswith(("../", "/"))
    return climbs or "\0" in name or name[1:2] == ":"


def find_images(
    images: Sequence[Entry],
    image_root: str | Path,
    faults: Faults,
    *,
    allow_outside: bool,
    max_headers: int,
    max_decoded: float = 0,
    max_faults: int | None = None,
    strict: bool = False,
) -> list[str]:
    """Find the image files of an annotation file, and check that they can be read.

    Args:
        images: the entries of the images.
        image_root: the folder of the images.
        faults: receives a refusal for each image that is missing, ambiguous or of another size, and
            the unreadable images.
        allow_outside: accept images outside the folder.
        max_headers: maximum number of headers to open, evenly spread, to compare the sizes; 0 to
            open none.
        max_decoded: maximum number of images to decode, evenly spread; 0 to decode none.
        max_faults: maximum number of unreadable images, >= 0; None for 10, or 5% of the opened
            images if that is more.
        strict: refuse any unreadable image.

    Returns:
        The paths, in the order of the entries; "" for a missing image.

    Raises:
        UserError: the folder is missing or not readable, images lie outside it, or too many of them
            are unreadable.
    """
    check_folder(image_root)
    if not allow_outside:
        check_inside(images, image_root, faults.file)
    finder = ImageFinder(image_root)
    paths = [finder.find(image) for image in images]
    if None in paths:
        _guess_missing(finder, images, paths, faults)
    image_paths = [path or "" for path in paths]
    limits = {"max_headers": max_headers, "max_decoded": max_decoded, "max_faults": max_faults}
    _check_files(images, image_paths, faults, **limits, strict=strict)
    return image_paths


def _guess_missing(
    finder: ImageFinder, images: Sequence[Entry], paths: list[str | None], faults: Faults
) -> None:
    """Fill in the paths of images with another name on disk; refuse images that are missing."""
    guesses = {i: finder.guess(images[i]) for i, path in enumerate(paths) if path is None}
    entries_of = Counter([*paths, *guesses.values()])
    for index, path in guesses.items():
        image, places = images[index], finder.places(images[index])
        if not places:
            text = "has neither 'file_name' nor LVIS's 'coco_url'"
            faults.add(REFUSED, "missing key", text, "images", index, image)
        elif path is not None and entries_of[path] == 1:
            paths[index] = path
            text = f"the file of {show(image.get('file_name') or image.get('coco_url'))} is {path}"
            faults.add(NOTED, "image with another name on disk", text, "images", index, image)
        else:
            text = f"no image file at {' or '.join(places)}"
            if path is not None:
                text += f"; {path} is also the file of another image"
            elif faults.total(REFUSED) < SHOWN:  # looking for similar names is slow
                text += finder.nearest(image)
            faults.add(REFUSED, "missing image file", text, "images", index, image)


def _check_files(
    images: Sequence[Entry],
    paths: Sequence[str],
    faults: Faults,
    *,
    max_headers: int,
    max_decoded: float,
    max_faults: int | None,
    strict: bool,
) -> None:
    """Open a sample of the headers, and decode a sample of the images; add their faults."""
    decoded = _sample(len(images), max_decoded)
    sampled = {*_sample(len(images), max_headers), *decoded}
    checked = sorted(index for index in sampled if paths[index])
    if not checked:
        return
    threads = min(_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        arguments = [(paths[index], index in decoded, _stamp(paths[index])) for index in checked]
        results = list(pool.map(lambda file_arguments: _check_file(*file_arguments), arguments))
    for index, result in zip(checked, results, strict=True):
        place = ("images", index, images[index])
        if result.reason is not None:
            action = REFUSED if result.refused else SKIPPED
            text = f"{paths[index]} cannot be read ({result.reason})"
            faults.add(action, UNREADABLE, text, *place)
        if result.header is not None:
            _compare(result.header, paths[index], faults, place)
    count = faults.counts[SKIPPED, UNREADABLE]
    if decoded:
        seconds = sum(result.seconds for result in results) / threads
        summary = f"decoded {len(decoded):,} of {len(images):,} images in {seconds:.1f} s"
        faults.remarks.append(f"{summary}; {count} of them cannot be read" if count else summary)
    if not count:
        return
    faults.check()
    if count == len(checked):
        faults.check(SKIPPED, hint="; none of the opened images can be read")
    if strict:
        faults.check(SKIPPED, hint="; --strict refuses this")
    faults.check_limit([SKIPPED], len(checked), "images were opened", max_faults)


class _FileCheck(NamedTuple):
    """The result of reading an image file.

    Attributes:
        header: its header, None if it is broken.
        reason: why the file cannot be read; None if it can.
        refused: whether the user can fix it: the file is not readable, or the image has too many
            pixels.
        seconds: duration of the check.
    """

    header: image_reading.Header | None
    reason: str | None
    refused: bool
    seconds: float


def _sample(count: int, limit: float) -> frozenset[int]:
    """Return at most ``limit`` evenly spread indices below ``count``."""
    if count <= limit:
        return frozenset(range(count))
    return frozenset(index * count // int(limit) for index in range(int(limit)))


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=None)
def _check_file(path: str, decode: bool, stamp: tuple[int, int] | None) -> _FileCheck:
    """Read the header of an image, or decode it; ``stamp`` changes when the file changes.

    The results are kept, because an annotation file is read again to check its masks.
    """
    start, header, reason, refused = time.perf_counter(), None, None, False
    try:
        header = image_reading.read_header(path)
        if decode and not header.mode.startswith("F"):
            image_reading.check_whole(path)
    except (image_reading.UnreadableImageError, OSError) as error:
        refused = isinstance(error, (OSError, image_reading.TooManyPixelsError))
        reason = " ".join(str(error).split())
    return _FileCheck(header, reason, refused, time.perf_counter() - start)


def _compare(
    header: image_reading.Header, path: str, faults: Faults, place: tuple[str, int, Entry]
) -> None:
    """Add a fault if an image has another size than annotated, or pixels of more than 8 bits."""
    image = place[2]
    if header.mode.startswith("F"):
        text = f"{path} has floating-point pixels; save it with 8 or 16 bits"
        faults.add(REFUSED, "pixel format", text, *place)
    if header.mode.startswith("I"):
        text = f"{path} has pixels of more than 8 bits, which are scaled to 8"
        faults.add(NOTED, "image with 16 bits", text, *place)
    size = image["width"], image["height"]
    if size == header.upright or not min(size) > 0:  # a side of 0 is refused elsewhere
        return
    if size == header.stored:
        text = f"{path} is read without its EXIF rotation, which its annotated size ignores"
        faults.add(NOTED, UNROTATED, text, *place)
        return
    expected = f"expected {header.upright[0]} x {header.upright[1]} as in {path}"
    text = f"'width' x 'height': {expected}, got {size[0]} x {size[1]}"
    faults.add(REFUSED, "image size", text, *place)
