"""A user's own data sets, in the format of COCO or of LVIS, in Detectron2's catalogs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ranking_det.data.annotations import AnnotationSummary
from ranking_det.data.entries import MAX_ID
from ranking_det.data.records import load_set, register_set


def register_annotations(
    name: str,
    json_file: str | Path,
    image_root: str | Path,
    summary: AnnotationSummary,
    *,
    allow_outside: bool = False,
) -> None:
    """Register a checked file with Detectron2; a set of the same name is replaced.

    Nothing is read before Detectron2 asks for the set. The metadata suffices for evaluators,
    which write category ids as they are in the file. A file may lack what Detectron2's own need:
    see :func:`complete_for_evaluation`.

    Args:
        name: the set's name in the catalogs.
        json_file: the annotations.
        image_root: the folder of the images.
        summary: what :func:`ranking_det.data.annotations.read_annotations` returned for the two.
        allow_outside: whether images may lie outside the folder.
    """
    class_of = {identity: k for k, identity in enumerate(summary.category_ids)}
    metadata: dict[str, Any] = {}
    if summary.format == "lvis":
        # What Detectron2's federated loss reads.
        metadata["class_image_count"] = [
            {"id": identity, "image_count": count}
            for identity, count in zip(summary.category_ids, summary.image_counts, strict=True)
        ]
    register_set(
        name,
        partial(load_set, name),
        thing_classes=list(summary.class_names),
        thing_dataset_id_to_contiguous_id=class_of,
        json_file=str(json_file),
        image_root=str(image_root),
        evaluator_type=summary.format,
        allow_outside=allow_outside,
        **metadata,
    )


def complete_for_evaluation(content: dict[str, Any]) -> None:
    """Fill in, in place, what COCO's evaluation needs and LVIS's or a user's file may lack.

    That is ``info``, and ``iscrowd`` and ``area`` (that of the box) of annotations. These are
    numbered anew from 1 if any id is below 1 or beyond what a float holds: COCO's evaluation takes
    0 for "no match", and faster-coco-eval is wrong about negative and larger ones too, so that the
    detections of such objects would count as false.

    Args:
        content: the file's content, such as ``dataset`` of a ``pycocotools.coco.COCO``, whose
            ``createIndex()`` is to be called afterwards.
    """
    content.setdefault("info", {})
    annotations = content.get("annotations", [])
    for annotation in annotations:
        annotation["iscrowd"] = int(annotation.get("iscrowd", 0))
        if "area" not in annotation:
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    if any(not 1 <= annotation["id"] < MAX_ID for annotation in annotations):
        for identity, annotation in enumerate(annotations, start=1):
            annotation["id"] = identity
