"""Registers the data sets of this project with Detectron2.

`shapes_train`, `shapes_val`, `shapes_lvis_train` and `shapes_lvis_val` lie under
$DETECTRON2_DATASETS (see `ranking_det.data.shapes`). Registering reads and makes no file.
"""

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ranking_det.data.records import register_set, to_records
from ranking_det.data.shapes import VARIANTS, categories_of, prepare_shapes, shapes_folder

_SPLITS = ("train", "val")


def register_shapes(root: str | Path | None = None) -> None:
    """Registers the four shapes sets; called again, it moves them to the root given then.

    Args:
        root: the folder of all data sets; default $DETECTRON2_DATASETS, else datasets/.
    """
    for variant in VARIANTS:
        folder = shapes_folder(variant, root)
        long_tailed = variant == "shapes_lvis"
        classes = [category.name for category in categories_of(variant)]
        for split in _SPLITS:
            name = f"{variant}_{split}"
            json_file = folder / "annotations" / f"instances_{split}.json"
            register_set(
                name,
                partial(_load_shapes, json_file, name),
                thing_classes=classes,
                thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(classes))},
                json_file=str(json_file),
                image_root=str(folder / split),
                evaluator_type="lvis" if long_tailed else "coco",
            )


def prepare_registered(names: Iterable[str]) -> None:
    """Makes the shapes sets among these registered names that are missing.

    Names of other data sets are passed over.
    """
    ours = {f"{variant}_{split}": variant for variant in VARIANTS for split in _SPLITS}
    for name in names:
        if name in ours:
            folder = Path(MetadataCatalog.get(name).json_file).parent.parent
            prepare_shapes(folder.parent, variant=ours[name])


def _load_shapes(json_file: Path, name: str) -> list[dict]:
    folder = json_file.parent.parent
    if not json_file.is_file():
        command = f"python -m ranking_det.data.shapes --root {folder.parent}"
        raise FileNotFoundError(
            f"data set {name!r} is not in {folder}: make it with "
            f"`{command} --variant {folder.name}`"
        )
    load = load_lvis_json if folder.name == "shapes_lvis" else load_coco_json
    return load(str(json_file), MetadataCatalog.get(name).image_root, name)


def load_lvis_json(json_file: str, image_root: str, dataset_name: str) -> list[dict]:
    """Loads an LVIS v1 file as Detectron2's dicts, without the lvis package.

    Sets `thing_classes` and `class_image_count` (what Detectron2's federated loss reads) in the
    metadata of the data set.

    Args:
        json_file: annotations in LVIS's format, with category ids 1 to K.
        image_root: where the images lie, by their `file_name`; an image without one (LVIS itself)
            is found in image_root by the last two parts of its `coco_url`, or the last one.
        dataset_name: name of the data set in Detectron2's catalogs.

    Returns:
        A dict per image, sorted by image id, with the fields that federated evaluation needs
        (`neg_category_ids` and `not_exhaustive_category_ids`, as in the file: from 1).
    """
    content = json.loads(Path(json_file).read_text())
    categories = sorted(content["categories"], key=lambda category: category["id"])
    ids = [category["id"] for category in categories]
    if ids != list(range(1, len(ids) + 1)):
        raise ValueError(f"{json_file}: category ids are not 1 to {len(ids)}, as in LVIS v1")
    MetadataCatalog.get(dataset_name).set(
        thing_classes=[category["name"] for category in categories],
        class_image_count=[
            {"id": category["id"], "image_count": category["image_count"]}
            for category in categories
        ],
    )
    return to_records(content, image_root, {identity: identity - 1 for identity in ids})
