"""Read detections in COCO's result format, or ``predictions.json`` of ``--predict``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from ranking_det.data.coco_json import rules
from ranking_det.data.coco_json.faults import REFUSED, Faults
from ranking_det.data.coco_json.fields import FIELDS, Entry, as_floats, read_boxes, read_section
from ranking_det.data.coco_json.mask_rules import Size, rle_faults
from ranking_det.data.coco_json.reader import image_sizes, load_json, sections_of
from ranking_det.user_errors import UserError, show


def read_results(path: str, ground_truth: Mapping[str, Any], iou_type: str) -> list[Entry]:
    """Read and check detections in COCO's result format, or ``predictions.json`` of ``--predict``.

    Args:
        path: the file.
        ground_truth: the checked content of the annotation file.
        iou_type: "bbox" or "segm".

    Returns:
        The results, with the ids of the ground truth.

    Raises:
        UserError: the file is missing, is not JSON, or has faults.
    """
    content, faults = load_json(path, "result file"), Faults(path)
    if isinstance(content, dict) and "annotations" in content:
        content = _results_of_predictions(content, path, ground_truth, faults)
    if not isinstance(content, list):
        kind = type(content).__name__
        raise UserError(f"{path}: expected a list of results, got {kind}")
    section = read_section(iou_type, content, FIELDS[iou_type], faults, Counter())
    faults.check()
    image_ids = {image["id"] for image in ground_truth["images"]}
    class_ids = {category["id"] for category in ground_truth["categories"]}
    rules.check_references(section, image_ids, class_ids, "the ground truth", faults)
    results = section.entries
    for index in np.flatnonzero(~np.isfinite(as_floats(section.columns["score"]))).tolist():
        text = f"'score': expected a finite number, got {show(results[index]['score'])}"
        faults.add(REFUSED, "wrong value", text, iou_type, index, results[index])
    faults.check()
    if iou_type == "bbox":
        return _check_result_boxes(results, faults)
    sizes = image_sizes(ground_truth)
    for index, result in enumerate(results):
        for text in _result_mask_faults(result, sizes):
            faults.add(REFUSED, "segmentation", text, iou_type, index, result)
    faults.check()
    for index, result in enumerate(results):
        mask = result["segmentation"]
        if not all(type(side) is int for side in mask["size"]):  # floats, equal to the integers
            width, height = sizes[result["image_id"]]
            results[index] = result | {"segmentation": mask | {"size": [height, width]}}
    return results


def _results_of_predictions(
    content: Mapping[str, Any], path: str, ground_truth: Mapping[str, Any], faults: Faults
) -> list[Any]:
    """Return the detections of a ``predictions.json`` with the ids of the ground truth.

    That file numbers the images in the order of the predictions, so images are matched by the name
    of their file, and classes by their name.
    """
    raw = sections_of(content, path)
    keys = {
        "categories": ("id", "name"),
        "images": ("id", "file_name"),
        "annotations": ("image_id", "category_id"),
    }
    read = {}
    for name, fields in keys.items():
        field_types = {key: FIELDS[name][key] for key in fields}
        read[name] = read_section(name, raw[name], field_types, faults, Counter())
    faults.check()
    results = read["annotations"].entries
    for section, noun in (("images", "image"), ("categories", "category")):
        ids_of_name = defaultdict(list)
        for entry in ground_truth[section]:
            ids_of_name[_plain_name(entry, noun)].append(entry["id"])
        names = {entry["id"]: _plain_name(entry, noun) for entry in read[section].entries}
        for index, identity in enumerate(read["annotations"].columns[f"{noun}_id"]):
            matches = ids_of_name.get(names.get(identity, ""), [])
            if len(matches) == 1:
                results[index] = {**results[index], f"{noun}_id": matches[0]}
            else:
                count = "several entries" if matches else "no entry"
                text = f"the ground truth has {count} for the {noun} {show(names.get(identity))}"
                faults.add(REFUSED, f"unknown {noun}", text, "annotations", index, results[index])
    faults.check()
    return results


def _plain_name(entry: Entry, noun: str) -> str:
    """Return the name of a category, or the file name of an image without its folders."""
    if noun == "category":
        return str(entry["name"])
    name = str(entry.get("file_name") or entry.get("coco_url") or "")
    return name.replace("\\", "/").rpartition("/")[2]


def _check_result_boxes(results: list[Entry], faults: Faults) -> list[Entry]:
    boxes = read_boxes("bbox", results, faults, Counter())
    faults.check()
    for index in np.flatnonzero(~np.isfinite(boxes.xywh).all(1)).tolist():
        box = results[index].get("bbox")
        text = f"'bbox': expected finite numbers, got {show(box)}" if box else "has no 'bbox'"
        faults.add(REFUSED, "malformed box", text, "bbox", index, results[index])
    for index in np.flatnonzero((boxes.xywh[:, 2:] < 0).any(1)).tolist():
        text = (
            f"'bbox': expected a width and height of at least 0, got {show(results[index]['bbox'])}"
        )
        faults.add(REFUSED, "malformed box", text, "bbox", index, results[index])
    faults.check()
    for index, box in boxes.replaced.items():
        results[index] = {**results[index], "bbox": box}
    return results


def _result_mask_faults(result: Entry, sizes: Mapping[Any, Size]) -> list[str]:
    mask = result.get("segmentation")
    if type(mask) is not dict:
        return [f"'segmentation': expected an object, got {show(mask)}"]
    texts = list(rle_faults(mask, sizes.get(result["image_id"])))
    if not texts and type(mask["counts"]) is not str:
        expected = "expected a string (results are compressed)"
        return [f"the RLE's 'counts': {expected}, got {show(mask)}"]
    return texts
