"""From the JSON of COCO or LVIS to Detectron2's dicts and catalogs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from ranking_det.data.image_files import ImageFinder

_FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")


def to_records(
    content: dict[str, Any], image_root: str | Path, class_of: Mapping[int, int]
) -> list[dict[str, Any]]:
    """Detectron2's dicts of a file in COCO's or LVIS's format.

    Args:
        content: the file's, without faults.
        image_root: where the images lie, by ``file_name`` or by the end of their ``coco_url``.
        class_of: the class, from 0, by category id.

    Returns:
        A dict per image, sorted by image id. Those of LVIS have ``neg_category_ids`` and
        ``not_exhaustive_category_ids``, as in the file. Where only some objects have a mask, the
        others get one without area, since Detectron2 needs all or none in an image.
    """
    of_image = defaultdict(list)
    masks = any(has_mask(annotation) for annotation in content["annotations"])
    for annotation in content["annotations"]:
        record = _to_object(annotation, class_of)
        if masks and not annotation.get("iscrowd"):
            # A polygon, which Detectron2 does not take for an empty mask and keeps with its box.
            record.setdefault("segmentation", [[*annotation["bbox"][:2]] * 3])
        of_image[annotation["image_id"]].append(record)
    finder = ImageFinder(image_root)
    return [
        {
            "file_name": finder.path(image),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
            **{key: image[key] for key in _FEDERATED if key in image},
            "annotations": of_image[image["id"]],
        }
        for image in sorted(content["images"], key=lambda image: image["id"])
    ]


def has_mask(annotation: Mapping[str, Any]) -> bool:
    """Whether an annotation is an object, and no crowd, with a mask."""
    return bool(annotation.get("segmentation")) and not annotation.get("iscrowd")


def _to_object(annotation: dict[str, Any], class_of: Mapping[int, int]) -> dict[str, Any]:
    record = {
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": class_of[annotation["category_id"]],
    }
    if "iscrowd" in annotation:
        record["iscrowd"] = int(annotation["iscrowd"])
    segmentation = annotation.get("segmentation")
    if segmentation:
        if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
            segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
        record["segmentation"] = segmentation
    return record


def register_set(name: str, load: Callable[[], list[dict[str, Any]]], **metadata: Any) -> None:
    """Register a data set with Detectron2, in the place of one of the same name."""
    # Metadata cannot be changed once set, so that of another place is dropped.
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(**metadata)
