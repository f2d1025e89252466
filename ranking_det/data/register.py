"""Registers data sets with Detectron2, without reading or making a file.

They lie under $DETECTRON2_DATASETS: the shapes (see `ranking_det.data.shapes`), and LVIS where
Detectron2 has it too.
"""

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.lvis import get_lvis_instances_meta

from ranking_det.data.records import load_set, register_set
from ranking_det.data.shapes import VARIANTS, categories_of, prepare_shapes, shapes_folder

_SPLITS = ("train", "val")
_LVIS_VERSIONS = ("v1", "v0.5")


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


def register_lvis(root: str | Path | None = None) -> None:
    """Registers ``ranking_lvis_v1_train`` and ``_val``, and the same of v0.5.

    Unlike Detectron2's ``lvis_v1_train`` and so on, they need no lvis package. The annotations are
    lvis/lvis_v1_train.json and so on; the images, of either split, lie in coco/train2017 and
    coco/val2017. Called again, it moves the sets to the root given then.

    Args:
        root: the folder of all data sets; default $DETECTRON2_DATASETS, else datasets/.
    """
    folder = Path(root or os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser()
    for version in _LVIS_VERSIONS:
        classes = get_lvis_instances_meta(f"lvis_{version}")["thing_classes"]
        for split in _SPLITS:
            name = f"ranking_lvis_{version}_{split}"
            register_set(
                name,
                partial(load_set, name),
                thing_classes=classes,
                thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(classes))},
                json_file=str(folder / "lvis" / f"lvis_{version}_{split}.json"),
                image_root=str(folder / "coco"),
                evaluator_type="lvis",
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
    return load_set(name)
