"""Where the sets lie, and how they come there whole or not at all.

    $DETECTRON2_DATASETS/            (default: datasets/)
        .shapes.lock                 held by the process that makes the set
        .shapes.partial-*            what it has made so far
        shapes/                      the whole set, renamed into place at the end
            train/000001.jpg  val/  annotations/instances_train.json  instances_val.json
            meta.json                what was asked for
        shapes_lvis/                 the same with the fields of LVIS v1

The operating system drops the lock of a killed process, so whoever gets the lock knows that
every partial folder is dead.
"""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from ranking_det.data.shapes.generate import VARIANTS, Settings, write_set

logger = logging.getLogger(__name__)

_LEAST = {"train": 1, "val": 1, "size": 32, "seed": 0}


def shapes_folder(variant: str = "shapes", root: str | Path | None = None) -> Path:
    """The folder of a set; `root` defaults to $DETECTRON2_DATASETS, and that to datasets/."""
    if variant not in VARIANTS:
        raise ValueError(f"variant: expected one of {', '.join(VARIANTS)}, got {variant!r}")
    root = root or os.environ.get("DETECTRON2_DATASETS") or "datasets"
    return Path(root).expanduser() / variant


def prepare_shapes(
    root: str | Path | None = None,
    *,
    variant: str = "shapes",
    train: int | None = None,
    val: int | None = None,
    size: int | None = None,
    seed: int | None = None,
    workers: int | None = None,
) -> Path:
    """Generates a set unless it is there, and returns its folder.

    Safe to call from many processes at once: one makes the set, the others wait for it.

    Args:
        root: the folder of all data sets; default $DETECTRON2_DATASETS, else datasets/.
        variant: "shapes" (12 classes, COCO fields) or "shapes_lvis" (98 classes, LVIS v1 fields).
        train: number of training images. None takes a set that is there as it is, and makes a
            new one with 1,000; the same holds for
        val: number of validation images (250),
        size: side of the images in pixels (256) and
        seed: of all that is random (0).
        workers: threads to draw with; default one per CPU core, at most 8.

    Raises:
        ValueError: an argument is out of range, or the set that is there was made with other
            values than the given ones, or by another version of the generator.
    """
    folder = shapes_folder(variant, root)
    wanted = {"train": train, "val": val, "size": size, "seed": seed}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    for name, value in wanted.items():
        if value < _LEAST[name]:
            raise ValueError(f"{name}: expected at least {_LEAST[name]}, got {value}")
    workers = workers or min(os.cpu_count() or 1, 8)
    made = not folder.exists() and _make(folder, replace(Settings(variant), **wanted), workers)
    settings = _check(folder, variant, wanted)
    logger.info(
        "%s: %d training and %d validation images at %d px, seed %d (%s)",
        *(folder, settings.train, settings.val, settings.size, settings.seed),
        "made now" if made else "was there",
    )
    return folder


def _make(folder: Path, settings: Settings, workers: int) -> bool:
    """Makes a set under the lock; returns False if another process was faster."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder) as locked:
        if folder.exists():
            return False
        if locked:
            for dead in folder.parent.glob(f".{folder.name}.partial-*"):
                shutil.rmtree(dead)
        partial = folder.parent / f".{folder.name}.partial-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        partial.mkdir()
        try:
            write_set(partial, settings, workers)
            partial.rename(folder)
        except OSError:
            # Without a lock another process may have renamed its own copy, which is the same.
            if locked or not folder.exists():
                raise
            return False
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return True


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Holds the lock of a set; yields False on a file system that has no locks."""
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        locked = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process to make %s", folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            locked = False
        yield locked


def _check(folder: Path, variant: str, wanted: dict[str, int]) -> Settings:
    """Reads what a set was made with, and raises if it is not what is wanted."""
    try:
        settings = Settings(**json.loads((folder / "meta.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        text = f"{folder} exists but was not made by `python -m ranking_det.data.shapes`"
        remedy = "move it away, or give another root"
        raise ValueError(f"{text} (no valid meta.json): {remedy}") from error
    made_with = asdict(settings)
    wanted = {"variant": variant, "generator": Settings.generator, **wanted}
    differing = {name: value for name, value in wanted.items() if made_with[name] != value}
    if differing:
        has = ", ".join(f"{name}={made_with[name]}" for name in differing)
        asked = ", ".join(f"{name}={value}" for name, value in differing.items())
        text = f"{folder} was made with {has}, but {asked} is asked for"
        raise ValueError(f"{text}: delete the folder to make it anew, or give another root")
    return settings
