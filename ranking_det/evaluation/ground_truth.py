"""The ground truth of an evaluation: checked, and completed by what a file may lack."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from ranking_det.data.coco_json import reader
from ranking_det.data.coco_json.rules import MAX_ID
from ranking_det.evaluation.metrics import Rules
from ranking_det.user_errors import UserError

logger = logging.getLogger(__name__)

LVIS_VERSIONS = {1230: "LVIS v0.5", 1203: "LVIS v1"}
"""By the number of categories, in which alone the two differ for an evaluation."""


def read_ground_truth(path: str, rules: Rules, iou_type: str) -> dict[str, Any]:
    """Read an annotation file for evaluation.

    Raises:
        UserError: it is missing, no JSON, or faulty; the message names the first fault.
    """
    masks = iou_type == "segm"
    content = prepare_ground_truth(reader.open_annotations(path).content, path, rules, masks=masks)
    reader.release_annotations(path)
    if masks:
        if content["annotations"] and not has_masks(content):
            raise UserError(f"{path}: no annotation has a 'segmentation' to evaluate masks with")
        fill_masks(content)
    return content


def prepare_ground_truth(
    content: dict[str, Any], where: str, rules: Rules, *, masks: bool = True
) -> dict[str, Any]:
    """Check the content of an annotation file, and complete it.

    Args:
        content: with ``images``, ``annotations`` and ``categories``, as COCO and LVIS have them.
        where: what messages call it, such as its path.
        rules: "lvis" needs LVIS's fields.
        masks: whether the masks of annotations are checked, where they have one.

    Returns:
        See :func:`complete_for_evaluation`.

    Raises:
        UserError: it lacks one, or is inconsistent; the message names the first fault.
    """
    reader.check_ground_truth(content, where, lvis=rules == "lvis", masks=masks)
    return complete_for_evaluation(content)


def complete_for_evaluation(content: Mapping[str, Any]) -> dict[str, Any]:
    """Add what COCO's evaluation needs and LVIS's or a user's file may lack.

    That is ``info``, and ``iscrowd`` and ``area`` (that of the box) of annotations. These are
    numbered anew from 1 if any id is below 1 or beyond what a float holds: COCO's evaluation takes
    0 for "no match", and faster-coco-eval is wrong about negative and larger ones too, so that the
    detections of such objects would count as false.

    Args:
        content: of an annotation file, such as ``dataset`` of a ``pycocotools.coco.COCO``. It is
            left as it is: others read it too.

    Returns:
        The same with annotations of its own, which evaluation libraries may write in.
    """
    annotations = [
        {
            **annotation,
            "iscrowd": int(annotation.get("iscrowd", 0)),
            "area": annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3]),
        }
        for annotation in content.get("annotations", ())
    ]
    if any(not 1 <= annotation["id"] < MAX_ID for annotation in annotations):
        for identity, annotation in enumerate(annotations, start=1):
            annotation["id"] = identity
    return {"info": {}, **content, "annotations": annotations}


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
    sizes = reader.image_sizes(content) if missing else {}
    for annotation in missing:
        width, height = sizes[annotation["image_id"]]
        annotation["segmentation"] = {"size": [height, width], "counts": [height * width]}


def describe(content: Mapping[str, Any]) -> str:
    """The format and the numbers, such as "LVIS v1, 19,809 images, 244,707 objects, ...".

    Crowds are no objects, and are named if there are any.
    """
    count, lvis = len(content["categories"]), reader.is_lvis(content["images"])
    name = LVIS_VERSIONS.get(count, "LVIS format") if lvis else "COCO format"
    images, (objects, crowds) = len(content["images"]), _count(content["annotations"])
    also = f" and {crowds:,} crowds" if crowds else ""
    return f"{name}, {images:,} images, {objects:,} objects{also}, {count:,} categories"


def _count(annotations: Collection[Mapping[str, Any]]) -> tuple[int, int]:
    """How many objects there are, and how many crowds."""
    crowds = sum(bool(annotation.get("iscrowd")) for annotation in annotations)
    return len(annotations) - crowds, crowds
