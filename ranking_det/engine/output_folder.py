"""The output folder of a training: one writer, no earlier training lost, nothing half written.

``--overwrite`` puts the files of an earlier training aside in ``earlier_run/``, where they stay
until the new training has a checkpoint. A kill leaves one of these states behind:

- ``earlier_run.partial/``: some files are put aside, the others are where they were;
- ``earlier_run/``: all are, and the new training has no checkpoint yet;
- ``earlier_run/`` beside a whole checkpoint that is younger: the new training goes on from it;
- ``.obsolete_run/``: what the first checkpoint of the new training has made superfluous.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from detectron2.data import DatasetCatalog
from detectron2.utils import comm

from ranking_det.files import PARTIAL, write_whole
from ranking_det.user_errors import UserError

logger = logging.getLogger(__name__)

EARLIER, OBSOLETE = "earlier_run", ".obsolete_run"

CHECKPOINT = re.compile(r"model_(best|final|\d{7,})\.pth")
# The best is not one to go on from.
RESUMABLE = re.compile(r"model_(final|\d{7,})\.pth")
# An evaluation without a training leaves some of these too. log.txt is not among them: whatever
# runs in the folder appends to it.
FILES = {
    *("last_checkpoint", "metrics.json", "config.yaml", "config.yaml.pkl", "classes.json"),
    *("results.json", "per_class_ap.csv", "curves.png", "detections.png"),
    *("coco_instances_results.json", "lvis_instances_results.json"),
}


def check_no_training(output_dir: str, key: str, *, resumable: bool) -> None:
    """Refuse to start a training where there is one already; nothing is written.

    Args:
        output_dir: the folder.
        key: how the user writes it.
        resumable: whether it has a checkpoint to go on from.

    Raises:
        UserError: a training was begun there, finished or not.
    """
    folder = Path(output_dir)
    if not has_training(folder):
        return
    path = folder / ".lock"
    if os.access(path, os.R_OK):
        with path.open() as file:
            _lock(file, output_dir, fcntl.LOCK_SH)  # several processes of a command may look
    aside = _aside(folder)
    if aside:
        raise UserError(_stopped(aside, key, output_dir))
    resume = "--resume to go on with it, " if resumable else ""
    raise UserError(
        f"{key}={output_dir} already has a training: give {resume}--overwrite to replace it, or "
        f"another folder with {key}=FOLDER"
    )


def check_still_no_training(output_dir: str, key: str) -> None:
    """The same check once more under the lock: another command may have trained there meanwhile."""
    if has_training(Path(output_dir)):
        raise UserError(
            f"{key}={output_dir} got a training while this one was prepared; give another folder "
            f"with {key}=FOLDER"
        )


def check_not_put_aside(output_dir: str, key: str) -> None:
    """Raise UserError if it is unclear which training of the folder is to be resumed."""
    folder = Path(output_dir)
    aside = _aside(folder)
    # A move back that was cut off: which of the files are of which training is unclear.
    if aside and aside.name == EARLIER and _has_checkpoint(folder):
        raise UserError(
            f"{aside} holds files of an earlier training: delete it, or move what is in it back to "
            f"{output_dir}; then --resume"
        )
    if aside:
        raise UserError(_stopped(aside, key, output_dir))


def _stopped(aside: Path, key: str, output_dir: str) -> str:
    return (
        f"{key}={output_dir}: a training with --overwrite was stopped before its first checkpoint; "
        f"give --overwrite to start it again, or move what is in {aside} back to {output_dir} and "
        "give --resume to go on with the earlier one"
    )


def has_training(folder: Path) -> bool:
    """Whether a training was begun in a folder: not a preview, predictions or an evaluation."""
    if _aside(folder) or (folder / "metrics.json").exists() or _has_checkpoint(folder):
        return True
    return any(CHECKPOINT.fullmatch(path.name) for path in folder.glob("model_*.pth"))


def put_aside(output_dir: str) -> None:
    """Move the files of an earlier training, if there is one, to ``earlier_run/``.

    If that has a training already, which the one here was to replace and has no checkpoint to
    replace it with, the one here is removed instead. Call it in the main process, and last before
    a new training writes its first file.
    """
    folder = Path(output_dir)
    if not has_training(folder):
        return
    earlier, moving = folder / EARLIER, folder / f"{EARLIER}{PARTIAL}"
    if _aside(folder) == earlier and not _has_checkpoint(folder):
        for path in _files(folder):
            path.unlink()
        return
    # The pointer first, so that it never points to what has been moved.
    for path in sorted(_files(folder), key=lambda path: path.name != "last_checkpoint"):
        target = moving / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    discard_earlier(output_dir)
    if moving.is_dir():
        moving.rename(earlier)
        logger.info("The earlier training is put aside in %s until the first checkpoint", earlier)


def discard_earlier(output_dir: str) -> None:
    """Remove what :func:`put_aside` has moved, if there is anything."""
    earlier = Path(output_dir, EARLIER)
    if earlier.is_dir():
        _remove_obsolete(Path(output_dir))
        earlier.rename(earlier.with_name(OBSOLETE))
        _remove_obsolete(Path(output_dir))


def where_put(output_dir: str, path: str) -> str:
    """Where a file of the folder is now, if a training with --overwrite has put it aside."""
    folder = Path(output_dir)
    aside = _aside(folder)
    if "://" in path or Path(path).resolve().parent != folder.resolve() or not aside:
        return path
    moved = aside / Path(path).name
    return str(moved) if moved.is_file() else path


def remove_partial(output_dir: str) -> None:
    """Remove what earlier runs were writing, or removing, when they were killed."""
    folder = Path(output_dir)
    if (folder / EARLIER).is_dir() and _is_obsolete(folder / EARLIER):
        discard_earlier(output_dir)
    for path in _files(folder):
        if PARTIAL in path.name:
            path.unlink()
    _remove_obsolete(folder)


def drop_rows_after(metrics: Path, iteration: int) -> None:
    """Drop the rows of a metrics.json that a resumed training writes again.

    Args:
        metrics: the file, of one JSON object a line; it need not be there.
        iteration: the last one of the checkpoint. A last line that was cut off is dropped too.
    """
    if metrics.is_file():
        lines = metrics.read_text().splitlines(keepends=True)
        write_whole(metrics, "".join(line for line in lines if _iteration(line) <= iteration))


def _iteration(line: str) -> float:
    try:
        return float(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _has_checkpoint(folder: Path) -> bool:
    return (folder / "last_checkpoint").is_file()


def _aside(folder: Path) -> Path | None:
    """The folder of files that were put aside, if there are any."""
    for path in (folder / f"{EARLIER}{PARTIAL}", folder / EARLIER):
        if path.is_dir() and any(path.iterdir()) and not _is_obsolete(path):
            return path
    return None


def _is_obsolete(aside: Path) -> bool:
    """Whether the new training was killed right after the first checkpoint, before its pointer.

    That checkpoint is younger than all that was put aside, unlike one that was moved back.
    """
    folder = aside.parent
    paths = folder.glob("model_*.pth")
    checkpoints = [path for path in paths if RESUMABLE.fullmatch(path.name)]
    if aside.name != EARLIER or _has_checkpoint(folder) or not checkpoints:
        return False
    files = (path for path in aside.rglob("*") if path.is_file())
    youngest = max((path.stat().st_mtime_ns for path in files), default=0)
    return max(path.stat().st_mtime_ns for path in checkpoints) >= youngest


def _files(folder: Path) -> list[Path]:
    """What a run writes in a folder; of several test sets the detections are in a folder each."""
    if not folder.is_dir():
        return []
    entries = list(folder.iterdir())
    sets = [path for path in entries if path.name in DatasetCatalog and path.is_dir()]
    detections = [path for part in sets for path in part.glob("*_instances_results.json*")]
    return [path for path in (*entries, *detections) if path.is_file() and _is_ours(path.name)]


def _is_ours(name: str) -> bool:
    name = name.replace(PARTIAL, "")
    is_checkpoint = CHECKPOINT.fullmatch(name) is not None
    return name in FILES or is_checkpoint or name.startswith("events.out.tfevents.")


def _remove_obsolete(folder: Path) -> None:
    shutil.rmtree(folder / OBSOLETE, ignore_errors=True)


@contextmanager
def sole_writer(output_dir: str) -> Iterator[None]:
    """Keep a second training out of the folder; a lock of the system's ends with its process.

    Raises:
        UserError: another training writes there.
    """
    if not comm.is_main_process():
        yield
        return
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    with Path(output_dir, ".lock").open("a+") as file:
        _lock(file, output_dir, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _lock(file: IO[str], output_dir: str, kind: int) -> None:
    """Lock a file until it is closed.

    Args:
        file: the lock of the folder.
        output_dir: the folder, for messages.
        kind: ``LOCK_EX`` to train, ``LOCK_SH`` to see whether another process does.

    Raises:
        UserError: another process has locked it.
    """
    try:
        # Not flock, which processes that load images would inherit and outlive this one with.
        fcntl.lockf(file, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        raise UserError(
            f"{output_dir}: another training (process {file.read().strip()}) writes there; "
            "give this one a folder of its own"
        ) from None
    except OSError as error:
        logger.warning("%s cannot be locked against a second training: %s", output_dir, error)
