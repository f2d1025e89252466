"""Reads and checks a user's annotation file, in the format of COCO or of LVIS."""

from __future__ import annotations

import gc
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ranking_det.data.entries import (
    LVIS_LISTS,
    check_annotations,
    check_categories,
    check_images,
)
from ranking_det.data.faults import Faults
from ranking_det.data.geometry import FLAT
from ranking_det.data.image_files import FileChecks, check_inside
from ranking_det.user_errors import UserError

logger = logging.getLogger(__name__)

SECTIONS = ("categories", "images", "annotations")
# COCO's own train2017 has two boxes of height 0 among 860,001.
FLAT_PER_OBJECT = 1e-5


@dataclass(frozen=True)
class AnnotationSummary:
    """What a checked annotation file holds.

    Attributes:
        json_file: the file.
        format: "lvis" if images have ``neg_category_ids`` or ``not_exhaustive_category_ids``,
            which are LVIS's own; else "coco".
        category_ids: as in the file, ascending; class k of a model is category_ids[k].
        class_names: of the categories, in the same order.
        image_counts: LVIS's ``image_count`` of the categories, in the same order; empty for COCO.
        num_images: number of images.
        num_empty_images: those without an object that is no crowd, which Detectron2 leaves out of
            training.
        num_objects: number of annotations that are no crowds.
        num_masks: of these, how many have a ``segmentation``.
    """

    json_file: str
    format: str
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    image_counts: tuple[int, ...]
    num_images: int
    num_empty_images: int
    num_objects: int
    num_masks: int


def read_annotations(
    json_file: str | Path, image_root: str | Path | None = None, *, allow_outside: bool = False
) -> AnnotationSummary:
    """Check a file in COCO's or LVIS's format, and its images, before anything is trained on it.

    Boxes may exceed their image by a pixel, the difference between usual conventions (in samples of
    COCO and LVIS none does); any more is a fault. So is a box without width or height, unless such
    are at most one in 100,000, as in COCO's train2017: training leaves these out. An annotation
    needs ``id``, ``image_id``, ``category_id`` and ``bbox``; ``segmentation``, ``area`` and
    ``iscrowd`` may be missing. Image sizes are those after the rotation that the EXIF asks for,
    as Detectron2 sees them.

    Args:
        json_file: the annotations.
        image_root: the folder of the images. They lie in it by their ``file_name``, or by the last
            two parts or the last part of their ``coco_url``. None checks the file alone.
        allow_outside: whether they may lie outside it. Links inside it are followed anyway.

    Returns:
        What the file holds.

    Raises:
        UserError: the file is missing or no such file, or entries of it are faulty. The message
            counts all faults and shows the first ten, a line each.
    """
    path = str(json_file)
    content = read_json(path)
    check_sections(content, path)
    files = None
    if image_root is not None:
        check_folder(image_root)
        if not allow_outside:
            check_inside(content["images"], image_root, path)
        files = FileChecks(image_root, len(content["images"]))
    faults = Faults(path)
    lvis = is_lvis(content["images"])
    names = check_categories(content["categories"], lvis, faults)
    sizes = check_images(content["images"], lvis, names, files, faults)
    objects = check_annotations(content["annotations"], sizes, names, faults)
    _pass_flat_boxes(faults, objects.total())
    faults.check()
    if not objects:
        raise UserError(f"{path}: all annotations are crowds; there is no object to train on")
    return _summarize(path, content, lvis, names, len(objects), objects.total())


def read_json(path: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: there is no such file, it is no JSON, or it holds something else.
    """
    content = load_json(path, "annotation file")
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold an object with {', '.join(SECTIONS)}")
    return content


def load_json(path: str, what: str) -> Any:
    """Whatever is in a JSON file, which messages call ``what`` if it is not there.

    Raises:
        UserError: there is no such file, or it is no JSON.
    """
    if os.path.isdir(path):
        raise UserError(f"the {what} {path!r} is a folder, not a file")
    try:
        return _parse(Path(path).read_bytes())
    except FileNotFoundError:
        place = f"current folder: {Path.cwd()}"
        raise UserError(f"the {what} {path!r} does not exist ({place})") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{path}: no valid JSON: {error.msg} at {place}") from None
    except UnicodeDecodeError as error:
        packed = error.object.startswith(b"\x1f\x8b")
        reason = "it is compressed by gzip: unpack it" if packed else "it is no text in UTF-8"
        raise UserError(f"{path}: cannot be read as JSON; {reason}") from None
    # A number of thousands of digits is a plain ValueError.
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None


def _parse(content: bytes) -> Any:
    collecting = gc.isenabled()
    gc.disable()  # it would walk over millions of new lists again and again: a third of the time
    try:
        return json.loads(content.decode())
    finally:
        if collecting:
            gc.enable()


def check_same_categories(train: AnnotationSummary, val: AnnotationSummary) -> None:
    """Raise UserError unless two files have the same categories, naming the first difference."""
    trained = dict(zip(train.category_ids, train.class_names, strict=True))
    evaluated = dict(zip(val.category_ids, val.class_names, strict=True))
    for identity in sorted(trained.keys() | evaluated.keys()):
        one, other = trained.get(identity), evaluated.get(identity)
        if one != other:
            there = ["missing" if name is None else repr(name) for name in (one, other)]
            raise UserError(
                f"the categories of training and validation must be the same, but category "
                f"{identity} is {there[0]} in {train.json_file} and {there[1]} in {val.json_file}"
            )


def check_sections(content: dict[str, Any], path: str) -> None:
    """Raise UserError unless a file's content has the three lists of COCO and LVIS."""
    for section in SECTIONS:
        if section not in content:
            raise UserError(f"{path}: has no {section!r}, as files of COCO and LVIS have")
        if not isinstance(content[section], list):
            kind = type(content[section]).__name__
            raise UserError(f"{path}: {section!r} must be a list, got {kind}")
        if not content[section]:
            raise UserError(f"{path}: {section!r} is empty")


def is_lvis(images: list[Any]) -> bool:
    """Whether the images of a file have LVIS's own fields."""
    return any(
        isinstance(image, dict) and not LVIS_LISTS.keys().isdisjoint(image) for image in images
    )


def check_folder(image_root: str | Path) -> None:
    """Raise UserError unless the folder of the images is there and can be read."""
    if not os.path.isdir(image_root):
        what = "is a file, not a folder" if os.path.exists(image_root) else "does not exist"
        raise UserError(f"the image folder {str(image_root)!r} {what}")
    if not os.access(image_root, os.R_OK | os.X_OK):
        raise UserError(f"the image folder {str(image_root)!r} may not be read")


def _pass_flat_boxes(faults: Faults, num_objects: int) -> None:
    """Forgive the few boxes of no width or height that are in a large file."""
    count = faults.counts[FLAT]
    if count and count == faults.counts.total() and count <= FLAT_PER_OBJECT * num_objects:
        logger.warning("%s: boxes without width or height: %d", faults.json_file, count)
        del faults.counts[FLAT]


def _summarize(
    path: str,
    content: dict[str, Any],
    lvis: bool,
    names: dict[int, str],
    num_with_objects: int,
    num_objects: int,
) -> AnnotationSummary:
    categories = sorted(content["categories"], key=lambda category: category["id"])
    return AnnotationSummary(
        json_file=path,
        format="lvis" if lvis else "coco",
        category_ids=tuple(names),
        class_names=tuple(names.values()),
        image_counts=tuple(c["image_count"] for c in categories) if lvis else (),
        num_images=len(content["images"]),
        num_empty_images=len(content["images"]) - num_with_objects,
        num_objects=num_objects,
        num_masks=sum(
            bool(a.get("segmentation")) and not a.get("iscrowd") for a in content["annotations"]
        ),
    )
