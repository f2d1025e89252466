"""Data sets in Detectron2's catalogs: the shapes, LVIS, and files of the user's own.

To register a set reads and makes no file; Detectron2's catalog does once it is asked for the set.
The shapes (see `ranking_det.data.shapes`) and LVIS, where Detectron2 has it too, lie under
$DETECTRON2_DATASETS.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis import get_lvis_instances_meta
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from ranking_det.data.coco_json import reader
from ranking_det.data.coco_json.image_files import ImageFinder
from ranking_det.data.coco_json.rules import LVIS_LISTS
from ranking_det.data.shapes import VARIANTS, categories_of, prepare_shapes, shapes_folder
from ranking_det.user_errors import UserError

_SPLITS = ("train", "val")
_SHAPES = {f"{variant}_{split}": (variant, split) for variant in VARIANTS for split in _SPLITS}

Load = Callable[[str], list[dict[str, Any]]]


def register_set(name: str, classes: Mapping[int, str], load: Load, **metadata: Any) -> None:
    """Register a data set with Detectron2, in the place of one of the same name.

    Args:
        name: in the catalogs.
        classes: names by category id, in the order of the classes.
        load: from the name to Detectron2's dicts.
        metadata: whatever else the set has.
    """
    # Metadata cannot be changed once set, so that of another place is dropped.
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)
    DatasetCatalog.register(name, partial(load, name))
    MetadataCatalog.get(name).set(
        thing_classes=list(classes.values()),
        thing_dataset_id_to_contiguous_id={i: k for k, i in enumerate(classes)},
        **metadata,
    )


def register_annotations(
    name: str,
    json_file: str | Path,
    image_root: str | Path,
    summary: reader.AnnotationSummary,
    *,
    allow_outside: bool = False,
) -> None:
    """Register a checked file with Detectron2; a set of the same name is replaced.

    The metadata suffices for evaluators, which write category ids as they are in the file. A file
    may lack what Detectron2's own evaluators need: see
    :func:`ranking_det.evaluation.ground_truth.complete_for_evaluation`.

    Args:
        name: the set's name in the catalogs.
        json_file: the annotations.
        image_root: the folder of the images.
        summary: of :func:`ranking_det.data.coco_json.reader.read_annotations` for the two.
        allow_outside: whether images may lie outside the folder.
    """
    ids = summary.category_ids
    metadata: dict[str, Any] = {}
    if summary.format == "lvis":
        counts = zip(ids, summary.image_counts, strict=True)
        metadata["class_image_count"] = [{"id": i, "image_count": count} for i, count in counts]
    register_set(
        name,
        dict(zip(ids, summary.class_names, strict=True)),
        load_set,
        json_file=str(json_file),
        image_root=str(image_root),
        evaluator_type=summary.format,
        allow_outside=allow_outside,
        **metadata,
    )


def register_shapes(root: str | Path | None = None) -> None:
    """Register the four shapes sets; called again, it moves them to the root given then.

    Args:
        root: the folder of all data sets; default $DETECTRON2_DATASETS, else datasets/.
    """
    for name, (variant, split) in _SHAPES.items():
        folder = shapes_folder(variant, root)
        register_set(
            name,
            {i: category.name for i, category in enumerate(categories_of(variant), start=1)},
            _load_shapes,
            json_file=str(folder / "annotations" / f"instances_{split}.json"),
            image_root=str(folder / split),
            evaluator_type="lvis" if variant == "shapes_lvis" else "coco",
        )


def register_lvis(root: str | Path | None = None) -> None:
    """Register ``ranking_lvis_v1_train`` and ``_val``, and the same of v0.5.

    Unlike Detectron2's ``lvis_v1_train`` and so on, they need no lvis package. The annotations are
    lvis/lvis_v1_train.json and so on; the images, of either split, lie in coco/train2017 and
    coco/val2017. Called again, it moves the sets to the root given then.

    Args:
        root: the folder of all data sets; default $DETECTRON2_DATASETS, else datasets/.
    """
    folder = Path(root or os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser()
    for version, split in product(("v1", "v0.5"), _SPLITS):
        classes = get_lvis_instances_meta(f"lvis_{version}")["thing_classes"]
        register_set(
            f"ranking_lvis_{version}_{split}",
            dict(enumerate(classes, start=1)),
            load_set,
            json_file=str(folder / "lvis" / f"lvis_{version}_{split}.json"),
            image_root=str(folder / "coco"),
            evaluator_type="lvis",
        )


def prepare_registered(names: Iterable[str]) -> None:
    """Draw the shapes sets among these registered names that are missing.

    Names of other data sets are passed over.
    """
    for name in names:
        if name in _SHAPES:
            folder = Path(MetadataCatalog.get(name).json_file).parent.parent
            prepare_shapes(folder.parent, variant=folder.name)


def release_sets(names: Iterable[str]) -> None:
    """Let go of the parsed annotation files of registered sets, once their records are made."""
    files = (MetadataCatalog.get(name).get("json_file") for name in names)
    reader.release_annotations(*(file for file in files if file))


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
            :func:`ranking_det.data.coco_json.reader.read_annotations`.
    """
    metadata = MetadataCatalog.get(name)
    path, lvis = metadata.json_file, metadata.evaluator_type == "lvis"
    outside = metadata.get("allow_outside", False)
    content = reader.open_registered(path, metadata.image_root, lvis=lvis, allow_outside=outside)
    categories = sorted(content["categories"], key=itemgetter("id"))
    ids = [category["id"] for category in categories]
    class_of = metadata.thing_dataset_id_to_contiguous_id
    if class_of.keys() != set(ids):
        of_file = f"{len(ids)} categories with ids from {ids[0]} to {ids[-1]}"
        of_set = f"{len(class_of)}, {min(class_of)} to {max(class_of)}"
        raise UserError(f"{path}: has {of_file}, but the data set {name!r} has {of_set}")
    if lvis and metadata.get("class_image_count") is None:
        counts = [{key: category[key] for key in ("id", "image_count")} for category in categories]
        metadata.class_image_count = counts
    return to_records(content, metadata.image_root, class_of)


def _load_shapes(name: str) -> list[dict[str, Any]]:
    json_file = Path(MetadataCatalog.get(name).json_file)
    folder = json_file.parent.parent
    if not json_file.is_file():
        command = f"python -m ranking_det.data.shapes --root {folder.parent}"
        remedy = f"make it with `{command} --variant {folder.name}`"
        raise FileNotFoundError(f"data set {name!r} is not in {folder}: {remedy}")
    return load_set(name)


def to_records(
    content: Mapping[str, Any], image_root: str | Path, class_of: Mapping[int, int]
) -> list[dict[str, Any]]:
    """Detectron2's dicts of a file in COCO's or LVIS's format.

    Args:
        content: the file's, without faults; it is left as it is, and shares boxes and masks.
        image_root: where the images lie, by ``file_name`` or by the end of their ``coco_url``.
        class_of: the class, from 0, by category id.

    Returns:
        A dict per image, sorted by image id. Those of LVIS have ``neg_category_ids`` and
        ``not_exhaustive_category_ids``, as in the file.
    """
    objects = defaultdict(list)
    for annotation in content["annotations"]:
        objects[annotation["image_id"]].append(_to_object(annotation, class_of))
    finder = ImageFinder(image_root)
    return [
        {
            "file_name": finder.path(image),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
            **{key: image[key] for key in LVIS_LISTS if key in image},
            "annotations": objects[image["id"]],
        }
        for image in sorted(content["images"], key=itemgetter("id"))
    ]


def _to_object(annotation: Mapping[str, Any], class_of: Mapping[int, int]) -> dict[str, Any]:
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
