"""From the JSON of COCO or LVIS to Detectron2's dicts and catalogs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from ranking_det.data.annotations import check_folder, check_sections, read_json
from ranking_det.data.entries import check_categories, check_images, check_references
from ranking_det.data.faults import Faults
from ranking_det.data.image_files import FileChecks, ImageFinder, check_inside
from ranking_det.user_errors import UserError

_FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")


def load_set(name: str) -> list[dict[str, Any]]:
    """Load a registered set, from its file in COCO's or LVIS's format.

    Args:
        name: of a set whose metadata has ``json_file``, ``image_root``, ``evaluator_type`` ("coco"
            or "lvis") and ``thing_dataset_id_to_contiguous_id``; with ``allow_outside`` its images
            may lie outside ``image_root``. That of LVIS gets ``class_image_count``, what
            Detectron2's federated loss reads.

    Returns:
        See :func:`to_records`.

    Raises:
        UserError: the file is missing or is none of its format, has other categories than the set
            is registered with, an image has no name, leaves its folder or is not there, or an
            annotation is of an unknown image or category. Boxes and masks are not checked; see
            :func:`ranking_det.data.annotations.read_annotations`.
    """
    metadata = MetadataCatalog.get(name)
    path, lvis = metadata.json_file, metadata.evaluator_type == "lvis"
    content = read_json(path)
    check_sections(content, path)
    check_folder(metadata.image_root)
    if not metadata.get("allow_outside", False):
        check_inside(content["images"], metadata.image_root, path)
    faults = Faults(path)
    names = check_categories(content["categories"], lvis, faults)
    finder = FileChecks(metadata.image_root, 0)
    sizes = check_images(content["images"], lvis, names, finder, faults)
    check_references(content["annotations"], sizes, names, faults)
    faults.check()
    class_of = metadata.thing_dataset_id_to_contiguous_id
    if names.keys() != class_of.keys():
        raise UserError(
            f"{path}: has {len(names)} categories with ids from {min(names)} to {max(names)}, but "
            f"the data set {name!r} has {len(class_of)}, {min(class_of)} to {max(class_of)}"
        )
    if lvis and metadata.get("class_image_count") is None:
        counts = {own["id"]: own["image_count"] for own in content["categories"]}
        metadata.class_image_count = [{"id": i, "image_count": counts[i]} for i in names]
    return to_records(content, metadata.image_root, class_of)


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
        ``not_exhaustive_category_ids``, as in the file.
    """
    of_image = defaultdict(list)
    for annotation in content["annotations"]:
        of_image[annotation["image_id"]].append(_to_object(annotation, class_of))
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
