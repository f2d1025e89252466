"""What is checked before a run: one clear line for a mistake, instead of a traceback."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog

from ranking_det.data.mapper import BoxMapper
from ranking_det.user_errors import UserError, nearest

DTYPES = ("auto", "float16", "bfloat16")


def check_file(path: str, what: str) -> None:
    """Raise UserError unless the file exists; a path with a scheme is left to Detectron2."""
    if "://" in path:
        return
    if Path(path).is_dir():
        raise UserError(f"{what} {path!r} is a folder, not a file")
    if not Path(path).is_file():
        raise UserError(f"{what} {path!r} does not exist (current folder: {Path.cwd()})")


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


def choose_dtype(amp: Mapping[str, Any], device: str) -> str:
    """The half precision of a training: "float16", "bfloat16", or "" for none.

    Args:
        amp: ``enabled``, and ``dtype``, whose default "auto" is float16 on a GPU, as Detectron2
            has it, and bfloat16 elsewhere.
        device: such as "cuda" or "cpu".

    Raises:
        UserError: another dtype, or float16 without a GPU, where torch has no loss scaling.
    """
    if not amp.get("enabled", False):
        return ""
    dtype = amp.get("dtype", "auto")
    on_gpu = str(device).startswith("cuda")
    if dtype not in DTYPES:
        raise UserError(f"train.amp.dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if dtype == "auto":
        return "float16" if on_gpu else "bfloat16"
    if dtype == "float16" and not on_gpu:
        raise UserError(f"train.amp.dtype=float16 needs a GPU; on {device} take bfloat16")
    return str(dtype)


def check_batch(batch: int, device: str, world: int) -> None:
    """Raise UserError unless so many processes can share a batch on such devices.

    Args:
        batch: images of an iteration; 0 where none is trained on.
        device: of each process.
        world: the number of processes.
    """
    if batch % world:
        raise UserError(f"a batch of {batch} cannot be shared by {world} processes")
    if world > 1 and device.startswith("cuda:"):
        raise UserError(f"several processes need the device 'cuda', got {device!r}")
    if world > 1 and device == "cpu" and torch.cuda.is_available():
        raise UserError(
            "several processes on the CPU of a machine with GPUs need "
            "CUDA_VISIBLE_DEVICES= in front of the command"
        )


def check_datasets(names: Sequence[str], key: str) -> None:
    """Raise UserError unless all data sets are registered."""
    for name in names:
        if name not in DatasetCatalog:
            known = DatasetCatalog.list()
            raise UserError(f"{key}: no data set {name!r} is registered{nearest(name, known)}")


def check_classes(names: Sequence[str], num_classes: int | None, keys: Sequence[str]) -> None:
    """Raise UserError unless the model has as many classes as each (loaded) data set.

    Args:
        names: of data sets.
        num_classes: the model's; None if it does not say.
        keys: where the user writes them.
    """
    for name in names:
        classes = MetadataCatalog.get(name).get("thing_classes")
        if classes is not None and num_classes is not None and len(classes) != num_classes:
            raise UserError(
                f"{' or '.join(keys) or 'the number of classes of the model'} is {num_classes}, "
                f"but the data set {name!r} has {len(classes)} classes"
            )


def check_trained_classes(names: Sequence[str], trained: list[str] | None, weights: str) -> None:
    """Raise UserError if the weights were trained on other classes, or in another order.

    Args:
        names: of data sets.
        trained: the classes that the checkpoint was trained on; None if it does not say.
        weights: the checkpoint, for the message.
    """
    for name in names:
        here = MetadataCatalog.get(name).get("thing_classes")
        if trained is not None and here is not None and list(trained) != list(here):
            pairs = enumerate(zip(trained, here, strict=False))
            i = next((i for i, (a, b) in pairs if a != b), None)
            first = "" if i is None else f": class {i} is {trained[i]!r} there and {here[i]!r} here"
            raise UserError(
                f"{weights!r} was trained on {len(trained)} classes, which are not the {len(here)} "
                f"of the data set {name!r}{first}"
            )


def check_masks(records: Sequence[dict[str, Any]], mapper: Any, names: Sequence[str]) -> None:
    """Raise UserError if a mapper is to give masks and no object has one."""
    wanted = (isinstance(mapper, BoxMapper) and mapper.masks) or (
        isinstance(mapper, DatasetMapper) and mapper.use_instance_mask
    )
    if wanted and not any("segmentation" in a for r in records for a in r["annotations"]):
        raise UserError(
            f"the objects of {', '.join(names)} have boxes only, but the config trains masks: take "
            "one without, or annotations with 'segmentation'"
        )
