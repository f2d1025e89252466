"""Annotation and result files, checked before anything is evaluated.

The checks are those of a user's own data (:mod:`ranking_det.data.entries`). What no evaluation
needs is left out: names of images, LVIS's counts, and where a box lies; it may be of no area.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from ranking_det.data.annotations import is_lvis, load_json, read_json
from ranking_det.data.entries import (
    ANNOTATION,
    CATEGORY,
    IMAGE,
    LVIS_LISTS,
    MAX_ID,
    frequency_faults,
    list_faults,
    name_faults,
    reference_faults,
    size_faults,
    type_faults,
    value_faults,
)
from ranking_det.data.faults import Fault, show
from ranking_det.data.geometry import (
    Size,
    broken_masks,
    corner_faults,
    is_number,
    segmentation_faults,
)
from ranking_det.data.own import complete_for_evaluation
from ranking_det.evaluation.metrics import FIELDS, Rules
from ranking_det.user_errors import UserError

logger = logging.getLogger(__name__)

LVIS_VERSIONS = {1230: "LVIS v0.5", 1203: "LVIS v1"}
"""By the number of categories, in which alone the two differ for an evaluation."""

PLACE = "the ground truth"


def read_ground_truth(path: str, rules: Rules, iou_type: str) -> dict[str, Any]:
    """Read an annotation file for evaluation.

    Raises:
        UserError: it is missing, no JSON, or faulty; the message names the first fault.
    """
    content = read_json(path)
    masks = iou_type == "segm"
    prepare_ground_truth(content, path, rules, masks=masks)
    if masks:
        if content["annotations"] and not has_masks(content):
            raise UserError(f"{path}: no annotation has a 'segmentation' to evaluate masks with")
        fill_masks(content)
    return content


def prepare_ground_truth(
    content: dict[str, Any], where: str, rules: Rules, *, masks: bool = True
) -> None:
    """Check the content of an annotation file, and fill in what evaluation needs, in place.

    Args:
        content: with ``images``, ``annotations`` and ``categories``, as COCO and LVIS have them.
        where: what messages call it, such as its path.
        rules: "lvis" needs LVIS's fields.
        masks: whether the masks of annotations are checked, where they have one.

    Raises:
        UserError: it lacks one, or is inconsistent; the message names the first fault.
    """
    lvis = rules == "lvis"
    categories = _check_section(
        content, where, "categories", lambda entry: _category_faults(entry, lvis)
    )
    if not categories:
        raise UserError(f"{where}: 'categories' is empty")
    _check_section(content, where, "images", lambda entry: _image_faults(entry, categories, lvis))
    sizes = _sizes(content)
    _check_section(
        content,
        where,
        "annotations",
        lambda entry: _annotation_faults(entry, sizes, categories, masks),
    )
    if masks:
        _check_masks(where, "annotations", content["annotations"], sizes)
    complete_for_evaluation(content)


def has_masks(content: Mapping[str, Any]) -> bool:
    """Whether any annotation has a mask."""
    return any(annotation.get("segmentation") for annotation in content["annotations"])


def fill_masks(content: dict[str, Any]) -> None:
    """Give an empty mask, in place, to objects and crowds without one: no detection finds them."""
    missing = [a for a in content["annotations"] if not a.get("segmentation")]
    if missing:
        (objects, crowds), (bare, none) = _count(content["annotations"]), _count(missing)
        also = f", {none} of {crowds} crowds" if none else ""
        logger.warning("Without a mask to be found by: %d of %d objects%s", bare, objects, also)
    sizes = _sizes(content) if missing else {}
    for annotation in missing:
        width, height = sizes[annotation["image_id"]]
        annotation["segmentation"] = {"size": [height, width], "counts": [height * width]}


def describe(content: Mapping[str, Any]) -> str:
    """The format and the numbers, such as "LVIS v1, 19,809 images, 244,707 objects, ...".

    Crowds are no objects, and are named if there are any.
    """
    count = len(content["categories"])
    name = LVIS_VERSIONS.get(count, "LVIS format") if is_lvis(content["images"]) else "COCO format"
    images, (objects, crowds) = len(content["images"]), _count(content["annotations"])
    also = f" and {crowds:,} crowds" if crowds else ""
    return f"{name}, {images:,} images, {objects:,} objects{also}, {count:,} categories"


def _count(annotations: Collection[Mapping[str, Any]]) -> tuple[int, int]:
    """How many objects there are, and how many crowds."""
    crowds = sum(bool(annotation.get("iscrowd")) for annotation in annotations)
    return len(annotations) - crowds, crowds


def read_results(path: str, ground_truth: Mapping[str, Any], iou_type: str) -> list[dict[str, Any]]:
    """Read a file in COCO's result format, for images and categories of the ground truth.

    Raises:
        UserError: it is missing, no JSON, or faulty; the message names the first fault.
    """
    results = load_json(path, "result file")
    if not isinstance(results, list):
        kind = type(results).__name__
        raise UserError(f"{path}: must hold a list of results, got {kind}")
    sizes = _sizes(ground_truth)
    categories = {category["id"] for category in ground_truth["categories"]}
    _check(path, "result", results, lambda r: _result_faults(r, iou_type, sizes, categories))
    if iou_type == "segm":
        _check_masks(path, "result", results, sizes)
    return results


FaultsOf = Callable[[Any], Iterator[Fault]]


def _check_section(
    content: Mapping[str, Any], where: str, section: str, faults: FaultsOf
) -> set[int]:
    """Check the entries of a list; return their ids."""
    entries = content.get(section)
    if type(entries) is not list:
        raise UserError(f"{where}: has no list {section!r}, as files of COCO and LVIS have")
    _check(where, section, entries, faults)
    ids = {entry["id"] for entry in entries}
    if len(ids) < len(entries):
        raise UserError(f"{where}: {len(entries) - len(ids)} ids of {section!r} are not unique")
    return ids


def _check(where: str, section: str, entries: list[Any], faults: FaultsOf) -> None:
    for index, entry in enumerate(entries):
        for _, text in faults(entry):
            raise UserError(f"{where}: {section}[{index}]: {text}")


def _check_masks(
    where: str, section: str, entries: list[Any], sizes: Mapping[int, Size | None]
) -> None:
    for index, (_, text) in broken_masks(entries, sizes):
        raise UserError(f"{where}: {section}[{index}]: {text}")


def _category_faults(entry: Any, lvis: bool) -> Iterator[Fault]:
    yield from type_faults(entry, CATEGORY | ({"frequency": str} if lvis else {}))
    yield from _id_faults(entry)
    yield from name_faults(entry)
    if lvis:
        yield from frequency_faults(entry)


def _image_faults(entry: Any, categories: set[int], lvis: bool) -> Iterator[Fault]:
    yield from type_faults(entry, IMAGE | (LVIS_LISTS if lvis else {}))
    yield from _id_faults(entry)
    yield from size_faults(entry)
    if lvis:
        yield from list_faults(entry, categories)


def _id_faults(entry: Mapping[str, Any]) -> Iterator[Fault]:
    if abs(entry["id"]) >= MAX_ID:
        yield "wrong value", f"'id' must be below 2**53, got {show(entry['id'])}"


def _annotation_faults(
    entry: Any, sizes: Mapping[int, Size], categories: Collection[int], masks: bool
) -> Iterator[Fault]:
    yield from type_faults(entry, ANNOTATION)
    yield from reference_faults(entry, sizes, categories, PLACE)
    yield from corner_faults(entry["bbox"])
    if min(entry["bbox"][2:]) < 0:
        yield "malformed box", f"width or height of 'bbox' is negative: {entry['bbox']}"
    if masks and entry.get("segmentation"):
        yield from segmentation_faults(entry["segmentation"], sizes[entry["image_id"]])
    yield from value_faults(entry)


def _result_faults(
    entry: Any, iou_type: str, sizes: Mapping[int, Size], categories: Collection[int]
) -> Iterator[Fault]:
    field = FIELDS[iou_type]
    kind = list if iou_type == "bbox" else dict
    yield from type_faults(entry, {"image_id": int, "category_id": int, field: kind})
    yield from reference_faults(entry, sizes, categories, PLACE)
    if "score" not in entry:
        yield "missing key", "has no 'score'"
    if not is_number(entry["score"]):
        yield "wrong value", f"has 'score' {show(entry['score'])}, which is no finite number"
    if iou_type == "bbox":
        yield from corner_faults(entry[field])
        return
    yield from segmentation_faults(entry[field], sizes[entry["image_id"]])
    if type(entry[field]["counts"]) is not str:
        text = f"must be a string, as a result's RLE is compressed, got {show(entry[field])}"
        yield "segmentation", f"the RLE's 'counts' {text}"


def _sizes(content: Mapping[str, Any]) -> dict[int, Size]:
    return {image["id"]: (image["width"], image["height"]) for image in content["images"]}
