"""One clear line for what a user got wrong, instead of a traceback."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog

from ranking_det.data import prepare_registered
from ranking_det.user_errors import UserError, nearest


def check_file(path: str, what: str) -> None:
    """Raise UserError unless the file exists; a path with a scheme is left to Detectron2."""
    if "://" in path:
        return
    if Path(path).is_dir():
        raise UserError(f"{what} {path!r} is a folder, not a file")
    if not Path(path).is_file():
        raise UserError(f"{what} {path!r} does not exist (current folder: {Path.cwd()})")


def build(node: Any, where: str) -> Any:
    """Instantiate a node of a LazyConfig.

    Raises:
        UserError: what it names cannot be imported, or refuses its arguments.
    """
    try:
        return instantiate(node)
    except UserError:
        raise
    # What constructors and Detectron2's own assertions raise; anything else is a fault of ours.
    except (TypeError, ValueError, KeyError, ImportError, AssertionError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{where} cannot be built: {reason}") from error


def check_output_dir(path: str | None, key: str) -> None:
    """Raise UserError unless files can be written in the folder, which may not be there yet."""
    if not path:
        raise UserError(f"{key} is empty; it must name a folder")
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"{key}={path}: {folder} is no folder that can be written to")


def check_device(device: str, key: str) -> None:
    """Raise UserError unless torch can compute on ``device``; ``key`` is where it was written."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        usable = "cpu"
        if torch.cuda.is_available():
            usable += f" or cuda:0 to cuda:{torch.cuda.device_count() - 1}"
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{key} is {device!r}, which does not work here ({reason}); usable: {usable}"
        ) from None


def check_datasets(names: list[str], key: str) -> None:
    """Raise UserError unless all data sets are registered."""
    for name in names:
        if name not in DatasetCatalog:
            known = DatasetCatalog.list()
            raise UserError(f"{key}: no data set {name!r} is registered{nearest(name, known)}")


def prepare_datasets(names: list[str]) -> None:
    """Draw the shapes sets among these that are missing.

    Raises:
        UserError: there is another folder in the place of one.
    """
    try:
        prepare_registered(names)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    for name in names:
        path = MetadataCatalog.get(name).get("json_file")
        if path:
            check_file(path, f"the annotation file of {name!r},")


def check_classes(names: list[str], num_classes: int | None, key: str) -> None:
    """Raise UserError unless the model has as many classes as each (loaded) data set."""
    for name in names:
        classes = MetadataCatalog.get(name).get("thing_classes")
        if classes is not None and num_classes is not None and len(classes) != num_classes:
            raise UserError(
                f"{key} is {num_classes}, but the data set {name!r} has {len(classes)} classes"
            )


def check_sets(names: list[str]) -> None:
    """Load data sets once, to hear of what is wrong before a training rather than after it.

    Raises:
        UserError: a file is missing or faulty, or a set needs a package that is not there.
    """
    for name in names:
        build({"_target_": DatasetCatalog.get, "name": name}, f"the data set {name!r}")


def check_masks(records: Sequence[dict[str, Any]], mapper: Any, names: list[str]) -> None:
    """Raise UserError if a mapper is to give masks and no object has one."""
    wanted = getattr(mapper, "masks", False) or getattr(mapper, "use_instance_mask", False)
    if wanted and not any("segmentation" in a for r in records for a in r["annotations"]):
        raise UserError(
            f"the objects of {', '.join(names)} have boxes only, but the config trains masks: take "
            "one without, or annotations with 'segmentation'"
        )
