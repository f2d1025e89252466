"""Store the shapes data sets on disk: atomic generation, safe for several processes.

    $DETECTRON2_DATASETS/            (default: datasets/)
        .shapes.lock                 held by the process that generates the set
        .shapes.partial-*            the incomplete set
        shapes/                      the complete set, renamed into place at the end
            train/000001.jpg  val/  annotations/instances_train.json  instances_val.json
            meta.json                the settings of the set
        shapes_lvis/                 the same with the fields of LVIS v1

The operating system releases the lock of a killed process. A process that gets the lock therefore
knows that no other process still writes to a partial folder.
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
from ranking_det.files import make_folder

logger = logging.getLogger(__name__)

_MINIMUM = {"train": 1, "val": 1, "size": 32, "seed": 0}
_LARGEST_SIZE = 8192


def shapes_folder(variant: str = "shapes", root: str | Path | None = None) -> Path:
    """Return the folder of a shapes data set, which may not exist yet.

    Args:
        variant: "shapes" or "shapes_lvis".
        root: the folder of all data sets; default $DETECTRON2_DATASETS, else datasets/.

    Raises:
        ValueError: there is no such variant, or the root is empty.
    """
    if root == "":
        raise ValueError("root: expected a folder, got ''")
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
    """Generate a shapes data set unless it exists; return its folder.

    Several processes may call it simultaneously: one generates the set, the others wait for it.

    If ``train``, ``val``, ``size`` or ``seed`` is None, an existing set may have any value, and a
    new set gets the default.

    Args:
        root: the folder of all data sets; default $DETECTRON2_DATASETS, else datasets/.
        variant: "shapes" (12 classes, COCO fields) or "shapes_lvis" (98 classes, LVIS v1 fields).
        train: number of training images, >= 1; default 1,000.
        val: number of validation images, >= 1; default 250.
        size: side of the square images in pixels, 32 to 8192; default 256.
        seed: random seed, >= 0; default 0.
        workers: number of threads that draw, >= 1; default one per CPU core, at most 8.

    Returns:
        The folder of the set.

    Raises:
        ValueError: an argument is out of range, or the existing set was made with other values or
            by another version of the generator.
    """
    folder = shapes_folder(variant, root)
    required = {"train": train, "val": val, "size": size, "seed": seed}
    required = {name: value for name, value in required.items() if value is not None}
    for name, value in required.items():
        if value < _MINIMUM[name]:
            raise ValueError(f"{name}: expected at least {_MINIMUM[name]}, got {value}")
    workers = min(os.cpu_count() or 1, 8) if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    is_new = not folder.exists() and _make(folder, replace(Settings(variant), **required), workers)
    settings = _check(folder, variant, required)
    logger.info(
        "%s: %d training and %d validation images at %d px, seed %d (%s)",
        *(folder, settings.train, settings.val, settings.size, settings.seed),
        "generated now" if is_new else "already there",
    )
    return folder


def _make(folder: Path, settings: Settings, workers: int) -> bool:
    """Generate a set under the lock; return False if another process was faster."""
    if settings.size > _LARGEST_SIZE:
        raise ValueError(f"size: expected at most {_LARGEST_SIZE}, got {settings.size}")
    make_folder(folder.parent)
    with _lock(folder) as locked:
        if folder.exists():
            return False
        if locked:
            for abandoned_folder in folder.parent.glob(f".{folder.name}.partial-*"):
                shutil.rmtree(abandoned_folder)
        partial = folder.parent / f".{folder.name}.partial-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        partial.mkdir()
        try:
            write_set(partial, settings, workers)
            partial.rename(folder)
        except OSError:
            # Without a lock, another process may have renamed its equal copy first.
            if locked or not folder.exists():
                raise
            return False
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return True


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Hold the lock of a set; yield False on a file system without locks."""
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        locked = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process to generate %s", folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            locked = False
        yield locked


def _check(folder: Path, variant: str, required: dict[str, int]) -> Settings:
    """Return the settings of a set; raise ValueError if they differ from the required ones."""
    try:
        settings = Settings(**json.loads((folder / "meta.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        text = f"{folder} exists but was not made by `python -m ranking_det.data.shapes`"
        remedy = "move it away or give another root"
        raise ValueError(f"{text} (no valid meta.json): {remedy}") from error
    made_with = asdict(settings)
    required = {"variant": variant, "generator": Settings.generator, **required}
    differing = {name: value for name, value in required.items() if made_with[name] != value}
    if differing:
        existing = ", ".join(f"{name}={made_with[name]}" for name in differing)
        requested = ", ".join(f"{name}={value}" for name, value in differing.items())
        text = f"{folder}: expected a set made with {requested}, got one made with {existing}"
        raise ValueError(f"{text}; delete the folder to generate it again, or give another root")
    return settings
