"""Annotation and result files, checked before anything is evaluated."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ranking_det.config import ConfigError
from ranking_det.data.annotations import is_lvis, load_json, read_json
from ranking_det.data.entries import ANNOTATION, CATEGORY, LVIS_LISTS, type_faults
from ranking_det.data.faults import show
from ranking_det.data.own import complete_for_evaluation
from ranking_det.evaluation.metrics import FIELDS, Rules

logger = logging.getLogger(__name__)

LVIS_VERSIONS = {1230: "LVIS v0.5", 1203: "LVIS v1"}
"""By the number of categories, in which alone the two differ for an evaluation."""

Size = tuple[int, int]  # height, width


def read_ground_truth(path: str, rules: Rules, iou_type: str) -> dict[str, Any]:
    """Read an annotation file for evaluation.

    Raises:
        ConfigError: it is missing, no JSON, or faulty; the message names the first fault.
    """
    content = read_json(path)
    prepare_ground_truth(content, path, rules)
    if iou_type == "segm":
        if content["annotations"] and not has_masks(content):
            raise ConfigError(f"{path}: no annotation has a 'segmentation' to evaluate masks with")
        fill_masks(content)
    return content


def prepare_ground_truth(content: dict[str, Any], where: str, rules: Rules) -> None:
    """Check the content of an annotation file, and fill in what evaluation needs, in place.

    Args:
        content: with ``images``, ``annotations`` and ``categories``, as COCO and LVIS have them.
        where: what messages call it, such as its path.
        rules: "lvis" needs LVIS's fields.

    Raises:
        ConfigError: it lacks one, or is inconsistent; the message names the first fault.
    """
    lvis = rules == "lvis"
    category: dict[str, type] = CATEGORY | ({"frequency": str} if lvis else {})
    image: dict[str, type] = {"id": int, "width": int, "height": int} | (LVIS_LISTS if lvis else {})
    images = _check_section(content, where, "images", lambda entry: _texts(entry, image))
    categories = _check_section(
        content, where, "categories", lambda entry: _category_faults(entry, category, lvis)
    )
    if not categories:
        raise ConfigError(f"{where}: 'categories' is empty")
    _check_section(
        content, where, "annotations", lambda entry: _annotation_faults(entry, images, categories)
    )
    complete_for_evaluation(content)


def has_masks(content: Mapping[str, Any]) -> bool:
    """Whether any annotation has a mask."""
    return any(annotation.get("segmentation") for annotation in content["annotations"])


def fill_masks(content: dict[str, Any]) -> None:
    """Give an empty mask, in place, to objects without one: no detection can find them."""
    missing = [a for a in content["annotations"] if not a.get("segmentation")]
    if missing:
        count = len(content["annotations"])
        logger.warning("%d of %d objects have no mask, so none can be found", len(missing), count)
    sizes = _sizes(content) if missing else {}
    for annotation in missing:
        height, width = sizes[annotation["image_id"]]
        annotation["segmentation"] = {"size": [height, width], "counts": [height * width]}


def describe(content: Mapping[str, Any]) -> str:
    """The format and the numbers, such as "LVIS v1, 19,809 images, 244,707 objects, ..."."""
    count = len(content["categories"])
    name = LVIS_VERSIONS.get(count, "LVIS format") if is_lvis(content["images"]) else "COCO format"
    images, objects = len(content["images"]), len(content["annotations"])
    return f"{name}, {images:,} images, {objects:,} objects, {count:,} categories"


def read_results(path: str, ground_truth: Mapping[str, Any], iou_type: str) -> list[dict[str, Any]]:
    """Read a file in COCO's result format, for images and categories of the ground truth.

    Raises:
        ConfigError: it is missing, no JSON, or faulty; the message names the first fault.
    """
    results = load_json(path, "result file")
    if not isinstance(results, list):
        kind = type(results).__name__
        raise ConfigError(f"{path}: must hold a list of results, got {kind}")
    sizes = _sizes(ground_truth)
    categories = {category["id"] for category in ground_truth["categories"]}
    _check(path, "result", results, lambda r: _result_faults(r, iou_type, sizes, categories))
    return results


Faults = Callable[[Any], Iterator[str]]


def _check_section(
    content: Mapping[str, Any], where: str, section: str, faults: Faults
) -> set[int]:
    """Check the entries of a list; return their ids."""
    entries = content.get(section)
    if type(entries) is not list:
        raise ConfigError(f"{where}: has no list {section!r}, as files of COCO and LVIS have")
    _check(where, section, entries, faults)
    ids = {entry["id"] for entry in entries}
    if len(ids) < len(entries):
        raise ConfigError(f"{where}: {len(entries) - len(ids)} ids of {section!r} are not unique")
    return ids


def _check(where: str, section: str, entries: list[Any], faults: Faults) -> None:
    for index, entry in enumerate(entries):
        text = next(faults(entry), None)
        if text is not None:
            raise ConfigError(f"{where}: {section}[{index}]: {text}")


def _texts(entry: Any, expected: dict[str, type]) -> Iterator[str]:
    for _, text in type_faults(entry, expected):
        yield text


def _category_faults(entry: Any, expected: dict[str, type], lvis: bool) -> Iterator[str]:
    yield from _texts(entry, expected)
    if lvis and entry["frequency"] not in ("r", "c", "f"):
        yield f"has 'frequency' {show(entry['frequency'])}, not 'r', 'c' or 'f'"


def _annotation_faults(entry: Any, images: set[int], categories: set[int]) -> Iterator[str]:
    yield from _texts(entry, ANNOTATION)
    yield from _reference_faults(entry, images, categories)
    yield from _box_faults(entry["bbox"])


def _result_faults(
    entry: Any, iou_type: str, sizes: Mapping[int, Size], categories: set[int]
) -> Iterator[str]:
    kind = list if iou_type == "bbox" else dict
    yield from _texts(entry, {"image_id": int, "category_id": int, FIELDS[iou_type]: kind})
    yield from _reference_faults(entry, sizes, categories)
    if "score" not in entry:
        yield "has no 'score'"
    if not _is_number(entry["score"]):
        yield f"has 'score' {show(entry['score'])}, which is no finite number"
    if iou_type == "bbox":
        yield from _box_faults(entry["bbox"])
    else:
        yield from _rle_faults(entry["segmentation"], sizes[entry["image_id"]])


def _reference_faults(
    entry: Mapping[str, Any], images: set[int] | Mapping[int, Size], categories: set[int]
) -> Iterator[str]:
    if entry["image_id"] not in images:
        yield f"has 'image_id' {entry['image_id']}, which is no image of the ground truth"
    if entry["category_id"] not in categories:
        yield f"has 'category_id' {entry['category_id']}, which is no category of the ground truth"


def _box_faults(box: list[Any]) -> Iterator[str]:
    if len(box) != 4 or not all(map(_is_number, box)):
        yield f"needs 4 finite numbers x, y, width, height in 'bbox', got {show(box)}"


def _rle_faults(mask: Mapping[str, Any], size: Size) -> Iterator[str]:
    if mask.get("size") != list(size) or type(mask.get("counts")) is not str:
        yield (
            f"needs a compressed RLE in 'segmentation', of the image's [height, width] "
            f"{list(size)}, got {show(mask)}"
        )


def _sizes(content: Mapping[str, Any]) -> dict[int, Size]:
    return {image["id"]: (image["height"], image["width"]) for image in content["images"]}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
