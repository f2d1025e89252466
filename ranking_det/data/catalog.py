"""Register data sets with Detectron2: the shapes, LVIS, and custom COCO or LVIS JSON files.

Registering a data set reads and writes no file; Detectron2's catalog loads it on first use. The
shapes (see :mod:`ranking_det.data.shapes`) and LVIS lie under $DETECTRON2_DATASETS, LVIS where
Detectron2 expects it.
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
    """Register a data set with Detectron2, replacing one of the same name.

    Args:
        name: the name in the catalogs.
        classes: the class names by category id, in the order of the classes.
        load: takes the name and returns Detectron2's dataset dicts.
        metadata: other metadata of the data set.
    """
    # Metadata cannot be changed once set, so an earlier registration is removed.
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
    """Register a validated COCO or LVIS JSON with Detectron2, replacing a set of the same name.

    The metadata is enough for evaluators, which write the category ids of the file. The file may
    lack fields that Detectron2's own evaluators need: see
    :func:`ranking_det.evaluation.ground_truth.complete_for_evaluation`.

    Args:
        name: the name in the catalogs.
        json_file: the annotation file.
        image_root: the folder of the images.
        summary: what :func:`ranking_det.data.coco_json.reader.read_annotations` returned for them.
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
    """Register the four shapes data sets. A second call moves them to another root.

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
    """Register LVIS v1 and v0.5: ``ranking_lvis_v1_train``, ``ranking_lvis_v0.5_val`` and so on.

    Unlike Detectron2's ``lvis_v1_train`` and so on, they do not need the lvis package. The
    annotations are lvis/lvis_v1_train.json and so on. The images of both splits lie in
    coco/train2017 and coco/val2017. A second call moves the data sets to another root.

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
    """Generate the shapes data sets among these names that are missing on disk.

    Args:
        names: names of registered data sets; those that are not shapes are skipped.

    Raises:
        ValueError: the folder of a set exists, but another program or generator version made it.
    """
    for name in names:
        if name in _SHAPES:
            folder = Path(MetadataCatalog.get(name).json_file).parent.parent
            prepare_shapes(folder.parent, variant=folder.name)


def release_sets(names: Iterable[str]) -> None:
    """Free the memory of the parsed annotation files of registered sets.

    Args:
        names: names of registered data sets that have been loaded.
    """
    files = (MetadataCatalog.get(name).get("json_file") for name in names)
    reader.release_annotations(*(file for file in files if file))


def load_set(name: str) -> list[dict[str, Any]]:
    """Load a registered data set from its COCO or LVIS JSON as Detectron2's dataset dicts.

    Boxes and masks are not checked; see
    :func:`ranking_det.data.coco_json.reader.read_annotations`.

    Args:
        name: the name of the data set. Its metadata has ``json_file``, ``image_root``,
            ``evaluator_type`` ("coco" or "lvis"), ``thing_dataset_id_to_contiguous_id`` and
            optionally ``allow_outside``, with which images may lie outside ``image_root``. For
            LVIS, this function adds ``class_image_count``, which Detectron2's federated loss
            reads.

    Returns:
        See :func:`to_records`.

    Raises:
        UserError: the file is missing or not in its format, or has other categories than the
            registered ones; an image has no name, leaves its folder or is missing; or an
            annotation refers to an unknown image or category.
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
        remedy = f"generate it with `{command} --variant {folder.name}`"
        raise FileNotFoundError(f"data set {name!r} is not in {folder}; {remedy}")
    return load_set(name)


def to_records(
    content: Mapping[str, Any], image_root: str | Path, class_of: Mapping[int, int]
) -> list[dict[str, Any]]:
    """Convert the content of a COCO or LVIS JSON to Detectron2's dataset dicts.

    Args:
        content: the content of the file, without faults. It is not changed, and the dicts share
            its boxes and masks.
        image_root: the folder of the images, which are found by ``file_name`` or by the end of
            ``coco_url``.
        class_of: the class, from 0, by category id.

    Returns:
        A dict per image, sorted by image id. For LVIS they have ``neg_category_ids`` and
        ``not_exhaustive_category_ids``, as in the file.

    Raises:
        UserError: a folder of images is not readable.
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
