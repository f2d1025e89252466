"""Ground truth of an evaluation: validate it and complete missing fields."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ranking_det.data.coco_json import reader
from ranking_det.data.coco_json.rules import MAX_ID
from ranking_det.evaluation.metrics import Rules
from ranking_det.user_errors import UserError, quantity

logger = logging.getLogger(__name__)

LVIS_VERSIONS = {1230: "LVIS v0.5", 1203: "LVIS v1"}
"""The versions by number of categories, the only difference that matters for evaluation."""


def read_ground_truth(
    path: str, rules: Rules | None, iou_type: str, options: reader.ReadOptions | None = None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Read, check and complete an annotation file for evaluation.

    Args:
        path: the COCO or LVIS JSON.
        rules: "coco" or "lvis"; "lvis" requires LVIS's fields. None for the format of the file.
        iou_type: "bbox" or "segm"; "segm" needs image sizes, and fills in empty masks.
        options: the options of the reader, except ``masks``.

    Returns:
        The content, see :func:`complete_for_evaluation`, and a line for each kind of annotation
        problem: entries that were converted, left out, cut, corrected or noted.

    Raises:
        UserError: the file is missing, is not valid JSON, has too many faults, has no
            annotations, or has no masks for "segm".
    """
    masks = iou_type == "segm"
    options = replace(options or reader.ReadOptions(), masks=masks)
    lvis = None if rules is None else rules == "lvis"
    annotations = reader.read_annotations(path, options=options, lvis=lvis, needs_sizes=masks)
    reader.release_annotations(path)
    if not annotations.annotated:
        raise UserError(f"{path}: has no 'annotations', so there is no AP")
    content = complete_for_evaluation(annotations.content)
    if masks:
        if content["annotations"] and not has_masks(content):
            raise UserError(f"{path}: no annotation has a valid 'segmentation'")
        fill_masks(content)
    return content, reader.summarize(annotations, options).notes


def complete_for_evaluation(content: Mapping[str, Any]) -> dict[str, Any]:
    """Add fields that COCO's evaluation needs and that LVIS or custom files may lack.

    These are ``info``, and each annotation's ``iscrowd`` and ``area`` (the area of the box).
    Annotations get new ids from 1 if any id is missing, not an integer, repeated, below 1, or too
    large to be exact as a float. In COCO's evaluation the id 0 means "no match", and
    faster-coco-eval also mishandles negative and larger ids: detections of such objects would count
    as false positives.

    Args:
        content: the content of an annotation file, such as ``dataset`` of a
            ``pycocotools.coco.COCO``. It is shared with other callers and not modified.

    Returns:
        The content with a copy of the annotations, which evaluation libraries may change.
    """
    annotations = [
        {
            **annotation,
            "iscrowd": annotation.get("iscrowd", 0),
            "area": annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3]),
        }
        for annotation in content.get("annotations", ())
    ]
    ids = [annotation.get("id") for annotation in annotations]
    exact = all(type(identity) is int and 1 <= identity < MAX_ID for identity in ids)
    if not exact or len(set(ids)) < len(ids):
        for identity, annotation in enumerate(annotations, start=1):
            annotation["id"] = identity
    return {"info": {}, **content, "annotations": annotations}


def has_masks(content: Mapping[str, Any]) -> bool:
    """Return whether any annotation has a mask.

    Args:
        content: the content of an annotation file.
    """
    return any(annotation.get("segmentation") for annotation in content["annotations"])


def fill_masks(content: dict[str, Any]) -> None:
    """Give objects and crowds without a mask an empty mask, in place; no detection matches it.

    Args:
        content: what :func:`complete_for_evaluation` returned.
    """
    missing = [a for a in content["annotations"] if not a.get("segmentation")]
    if missing:
        objects, crowds = _count(content["annotations"])
        no_mask_objects, no_mask_crowds = _count(missing)
        suffix = f", {no_mask_crowds} of {crowds} crowds" if no_mask_crowds else ""
        message = "Without a mask, so never matched: %d of %d objects%s"
        logger.warning(message, no_mask_objects, objects, suffix)
    sizes = reader.image_sizes(content) if missing else {}
    for annotation in missing:
        width, height = sizes[annotation["image_id"]]
        annotation["segmentation"] = {"size": [height, width], "counts": [height * width]}


def describe(content: Mapping[str, Any]) -> str:
    """Describe the ground truth: "LVIS v1, 19,809 images, 244,707 objects, 1,203 categories".

    Crowds do not count as objects; they are counted separately if there are any.

    Args:
        content: the content of an annotation file.

    Returns:
        The text: format, images, objects, crowds, categories.
    """
    count, lvis = len(content["categories"]), reader.is_lvis(content["images"])
    name = LVIS_VERSIONS.get(count, "LVIS format") if lvis else "COCO format"
    images, (objects, crowds) = len(content["images"]), _count(content["annotations"])
    suffix = f" and {quantity(crowds, 'crowd', 'crowds')}" if crowds else ""
    parts = [
        quantity(images, "image", "images"),
        quantity(objects, "object", "objects") + suffix,
        quantity(count, "category", "categories"),
    ]
    return ", ".join([name, *parts])


def _count(annotations: Collection[Mapping[str, Any]]) -> tuple[int, int]:
    """Return the number of objects and the number of crowds."""
    crowds = sum(bool(annotation.get("iscrowd")) for annotation in annotations)
    return len(annotations) - crowds, crowds
