"""Register data sets with Detectron2: the shapes, LVIS, and custom COCO or LVIS JSON files.

Registering a data set reads and writes no file; Detectron2's catalog loads it on first use. The
shapes (see :mod:`ranking_det.data.shapes`) and LVIS lie under $DETECTRON2_DATASETS, LVIS where
Detectron2 expects it.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis import get_lvis_instances_meta
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import log_first_n
from pycocotools import mask as mask_util

from ranking_det.data.coco_json import reader
from ranking_det.data.coco_json.reader import Annotations, summarize
from ranking_det.data.coco_json.rules import LVIS_LISTS, id_order
from ranking_det.data.shapes import CATEGORIES, VARIANTS, prepare_shapes, shapes_folder
from ranking_det.user_errors import UserError, quantity

DEFAULT_READ_OPTIONS = reader.ReadOptions(masks=True, max_headers=0)
"""Options for the files of sets without ``read_options`` in their metadata."""

_SPLITS = ("train", "val")
_SHAPES = {f"{variant}_{split}": (variant, split) for variant in VARIANTS for split in _SPLITS}

Load = Callable[[str], list[dict[str, Any]]]


def register_set(
    name: str, class_names: Sequence[str], class_of: Mapping[Any, int], load: Load, **metadata: Any
) -> None:
    """Register a data set with Detectron2, replacing one of the same name.

    Args:
        name: the name in the catalogs.
        class_names: the names of the K classes of a model.
        class_of: the class, from 0, by category id.
        load: takes the name and returns Detectron2's dataset dicts.
        metadata: other metadata of the data set.
    """
    # Metadata cannot be changed once set, so an earlier registration is removed.
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)
    DatasetCatalog.register(name, partial(load, name))
    MetadataCatalog.get(name).set(
        thing_classes=list(class_names),
        thing_dataset_id_to_contiguous_id=dict(class_of),
        **metadata,
    )


def register_annotations(
    name: str,
    image_root: str | Path,
    summary: reader.AnnotationSummary,
    class_names: Sequence[str] | None = None,
    classes_of: str = "the model",
) -> None:
    """Register a checked COCO or LVIS JSON with Detectron2, replacing a set of the same name.

    The metadata is enough for evaluators, which write the category ids of the file. The file may
    lack fields that Detectron2's own evaluators need: see
    :func:`ranking_det.evaluation.ground_truth.complete_for_evaluation`.

    Args:
        name: the name in the catalogs.
        image_root: the folder of the images.
        summary: the summary of the file; the file is read again with its options.
        class_names: the names of the K classes of the model. A validation file may lack some of
            them. None for the classes of the file.
        classes_of: the source of these names for messages, such as the training file.

    Raises:
        UserError: the file has a category that is not among the classes.
    """
    ids = summary.category_ids
    metadata: dict[str, Any] = {}
    if summary.image_counts:
        counts = zip(ids, summary.image_counts, strict=True)
        metadata["class_image_count"] = [{"id": i, "image_count": count} for i, count in counts]
    class_names = summary.class_names if class_names is None else class_names
    register_set(
        name,
        class_names,
        reader.match_classes(class_names, summary, classes_of),
        load_set,
        json_file=summary.json_file,
        image_root=str(image_root),
        evaluator_type=summary.format,
        read_options=summary.options.without_images(),
        **metadata,
    )


def register_shapes(root: str | Path | None = None) -> None:
    """Register the four shapes data sets. A second call moves them to another root.

    Args:
        root: the folder of all data sets; default $DETECTRON2_DATASETS, else datasets/.
    """
    for name, (variant, split) in _SHAPES.items():
        folder = shapes_folder(variant, root)
        names = [category.name for category in CATEGORIES[variant]]
        register_set(
            name,
            names,
            {identity: identity - 1 for identity in range(1, len(names) + 1)},
            _load_shapes,
            json_file=str(folder / "annotations" / f"instances_{split}.json"),
            image_root=str(folder / split),
            evaluator_type="lvis" if variant == "shapes_lvis" else "coco",
        )


def register_lvis(root: str | Path | None = None) -> None:
    """Register LVIS v1 and v0.5: ``ranking_lvis_v1_train``, ``ranking_lvis_v0.5_val`` and so on.

    Unlike Detectron2's LVIS data sets, they do not need the lvis package. The annotation files are
    named like lvis/lvis_v1_train.json. The images of both splits lie in coco/train2017 and
    coco/val2017. A second call moves the data sets to another root.

    Args:
        root: the folder of all data sets; default $DETECTRON2_DATASETS, else datasets/.
    """
    folder = Path(root or os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser()
    for version, split in product(("v1", "v0.5"), _SPLITS):
        classes = get_lvis_instances_meta(f"lvis_{version}")["thing_classes"]
        register_set(
            f"ranking_lvis_{version}_{split}",
            classes,
            {identity: identity - 1 for identity in range(1, len(classes) + 1)},
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
    for folder in dict.fromkeys(_shapes_folders(names).values()):
        prepare_shapes(folder.parent, variant=folder.name)


def missing_shapes(names: Iterable[str]) -> list[str]:
    """Return the shapes data sets among these names that are not on disk yet."""
    return [name for name, folder in _shapes_folders(names).items() if not folder.exists()]


def _shapes_folders(names: Iterable[str]) -> dict[str, Path]:
    """Return the folder of each shapes data set among these names."""
    return {
        name: Path(MetadataCatalog.get(name).json_file).parent.parent
        for name in names
        if name in _SHAPES
    }


@contextmanager
def small_set() -> Iterator[str]:
    """Register a data set of one image with one object within the context; yield its name.

    It has no files. Evaluators of sets that are still to be generated are checked with it.
    """
    name, square = "ranking_small", [0, 0, 8, 0, 8, 8, 0, 8]
    thing = {"bbox": [0, 0, 8, 8], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    image = {"file_name": "", "image_id": 0, "height": 8, "width": 8}
    record = {**image, "annotations": [{**thing, "segmentation": [square]}]}
    register_set(name, ["object"], {1: 0}, lambda _: [record])
    try:
        yield name
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def release_sets(names: Iterable[str]) -> None:
    """Free the memory of the parsed annotation files of registered sets.

    Args:
        names: names of registered data sets that have been loaded.
    """
    files = (MetadataCatalog.get(name).get("json_file") for name in names)
    reader.release_annotations(*(file for file in files if file))


def read_registered(name: str, *, with_images: bool = True) -> Annotations:
    """Read the annotation file of a registered data set; see :func:`reader.read_annotations`.

    Args:
        name: the name of the data set. Its metadata has ``json_file``, ``evaluator_type`` ("coco"
            or "lvis"), and optionally ``image_root`` and ``read_options``, by default
            :data:`DEFAULT_READ_OPTIONS`.
        with_images: whether to find the images.

    Returns:
        The checked content.

    Raises:
        UserError: the file is missing, is not in its format, or has faults that are refused.
    """
    metadata = MetadataCatalog.get(name)
    return reader.read_annotations(
        PathManager.get_local_path(metadata.json_file),
        metadata.get("image_root") if with_images else None,
        metadata.get("read_options") or DEFAULT_READ_OPTIONS,
        lvis=metadata.get("evaluator_type") == "lvis",
    )


def load_set(name: str) -> list[dict[str, Any]]:
    """Load a registered data set from its COCO or LVIS JSON as Detectron2's dataset dicts.

    Args:
        name: the name of the data set; see :func:`read_registered`. Its metadata also has
            ``thing_dataset_id_to_contiguous_id``. For LVIS, this function adds
            ``class_image_count``, which Detectron2's federated loss reads.

    Returns:
        See :func:`to_records`.

    Raises:
        UserError: the file is missing, is not in its format, has faults that are refused, or has a
            category that the data set is not registered with.
    """
    metadata, annotations = MetadataCatalog.get(name), read_registered(name)
    class_of = metadata.thing_dataset_id_to_contiguous_id
    ids = [category["id"] for category in annotations.categories]
    if class_of.keys() - annotations.root_ids != set(ids):
        count = quantity(len(ids), "category", "categories")
        file_categories = f"{count} with ids from {ids[0]} to {ids[-1]}"
        registered = sorted(class_of, key=id_order)
        set_categories = f"{len(class_of):,} with {registered[0]} to {registered[-1]}"
        raise UserError(
            f"{annotations.path}: has {file_categories}, but the data set {name!r} has "
            f"{set_categories}"
        )
    counts = [
        {"id": category["id"], "image_count": category.get("image_count")}
        for category in annotations.categories
    ]
    if annotations.lvis and metadata.get("class_image_count") is None:
        if all(count["image_count"] is not None for count in counts):
            metadata.class_image_count = counts
    if "read_options" not in metadata.as_dict():  # the engine logs the notes of the user's files
        for note in summarize(annotations, DEFAULT_READ_OPTIONS).notes:
            log_first_n(logging.INFO, f"{annotations.path}: {note}", key="message")
    return to_records(annotations, class_of)


def _load_shapes(name: str) -> list[dict[str, Any]]:
    json_file = Path(MetadataCatalog.get(name).json_file)
    folder = json_file.parent.parent
    if not json_file.is_file():
        command = f"python -m ranking_det.data.shapes --root {folder.parent}"
        remedy = f"generate it with `{command} --variant {folder.name}`"
        raise FileNotFoundError(f"data set {name!r} is not in {folder}; {remedy}")
    return load_set(name)


def to_records(annotations: Annotations, class_of: Mapping[Any, int]) -> list[dict[str, Any]]:
    """Convert an annotation file to Detectron2's dataset dicts.

    Args:
        annotations: the checked file with its images. It is not changed, and the dicts share its
            boxes and masks.
        class_of: the class, from 0, by category id.

    Returns:
        A dict per image, sorted by image id. For LVIS they have ``neg_category_ids`` and
        ``not_exhaustive_category_ids``, as in the file. Objects have masks if these were checked.
    """
    objects, masks = defaultdict(list), annotations.masks
    for annotation in annotations.annotations:
        objects[annotation["image_id"]].append(_to_object(annotation, class_of, masks=masks))
    images = zip(annotations.images, annotations.image_files, strict=True)
    return [
        {
            "file_name": path,
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
            **{key: image[key] for key in LVIS_LISTS if key in image},
            "annotations": objects[image["id"]],
        }
        for image, path in sorted(images, key=lambda pair: id_order(pair[0]["id"]))
    ]


def _to_object(
    annotation: Mapping[str, Any], class_of: Mapping[Any, int], *, masks: bool
) -> dict[str, Any]:
    record = {
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": class_of[annotation["category_id"]],
    }
    if "iscrowd" in annotation:
        record["iscrowd"] = annotation["iscrowd"]
    segmentation = annotation.get("segmentation")
    if segmentation and masks:
        if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
            segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
        record["segmentation"] = segmentation
    return record
