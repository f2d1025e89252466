"""Output folder of a run: lock, ``--overwrite`` without data loss, cleanup after a kill.

``--overwrite`` moves the files of an earlier run to ``earlier_run/``. They stay there until the new
run has a checkpoint. After a kill the folder has one of these states:

- ``earlier_run.partial/``: some files are moved, the others are not;
- ``earlier_run/``: all files are moved, and the new run has no checkpoint yet;
- ``earlier_run/`` and a newer, complete checkpoint: the new run can be resumed;
- ``.obsolete_run/``: files that are being deleted after the first checkpoint of the new run.
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

from ranking_det.files import PARTIAL, make_folder, write_whole
from ranking_det.path_checks import check_no_folder
from ranking_det.user_errors import UserError

logger = logging.getLogger(__name__)

EARLIER, OBSOLETE = "earlier_run", ".obsolete_run"

CHECKPOINT = re.compile(r"model_(best|final|\d{7,})\.pth")
# What is fitted to the scores of a checkpoint.
FITTED_FILE = re.compile(r"model_(best|final|\d{7,})\.scores\.json")
# The best checkpoint is not among them, because a run does not resume from it.
RESUMABLE = re.compile(r"model_(final|\d{7,})\.pth")
# The files of a training run; an evaluation alone writes some of these too. Every command appends
# to log.txt, which is therefore not among them.
FILES = {
    *("last_checkpoint", "metrics.json", "config.yaml", "config.yaml.pkl", "classes.json"),
    *("results.json", "per_class_ap.csv", "curves.png", "detections.png"),
    *("coco_instances_results.json", "lvis_instances_results.json"),
}

OTHER_FILES = {".lock", "log.txt", "model_best.pth", "model_final.pth"}
"""Further files that a run writes."""


def check_no_training(output_dir: str, key: str, *, resumable: bool) -> None:
    """Refuse to start a training run in a folder that already has one; nothing is written.

    Args:
        output_dir: the folder.
        key: the config key of the folder, for messages.
        resumable: whether the folder has a checkpoint that can be resumed.

    Raises:
        UserError: the folder has a training run, finished or not, or a process is training there.
    """
    folder = Path(output_dir)
    if not has_training(folder):
        return
    path = folder / ".lock"
    if os.access(path, os.R_OK):
        with path.open() as file:
            _lock(file, output_dir, fcntl.LOCK_SH)  # shared by the processes of a command
    aside = _aside(folder)
    if aside:
        raise UserError(_stopped(aside, key, output_dir))
    resume = "--resume to continue it, " if resumable else ""
    raise UserError(
        f"{key}: {output_dir!r} already has a training run; give {resume}--overwrite to replace "
        f"it, or another folder with {key}=FOLDER"
    )


def check_names(output_dir: str, key: str) -> None:
    """Refuse a folder in which something that is not a file has the name of a file of a run.

    Args:
        output_dir: the folder; it need not exist.
        key: the config key of the folder, for messages.

    Raises:
        UserError: a folder, a broken link or a device has the name of a file, or a file the name of
            a folder.
    """
    folder = Path(output_dir)
    check_no_folder(output_dir, sorted(FILES | OTHER_FILES), key)
    for name in (EARLIER, f"{EARLIER}{PARTIAL}", OBSOLETE):
        path = folder / name
        if os.path.lexists(path) and not path.is_dir():
            raise UserError(f"{key}: expected a folder or nothing at {path}, got something else")


def check_still_no_training(output_dir: str, key: str) -> None:
    """Repeat :func:`check_no_training` under the lock of :func:`sole_writer`.

    Args:
        output_dir: the folder.
        key: the config key of the folder, for messages.

    Raises:
        UserError: another command has started a training run there in the meantime.
    """
    if has_training(Path(output_dir)):
        raise UserError(
            f"{key}: another command has started a training run in {output_dir!r} in the meantime; "
            f"give another folder with {key}=FOLDER"
        )


def check_not_put_aside(output_dir: str, key: str) -> None:
    """Check that it is clear which run of the folder ``--resume`` continues.

    Args:
        output_dir: the folder.
        key: the config key of the folder, for messages.

    Raises:
        UserError: the folder also has files of an earlier run that was put aside.
    """
    folder = Path(output_dir)
    aside = _aside(folder)
    # Someone has moved only some of the files back: the files of two runs may be mixed.
    if aside and aside.name == EARLIER and _has_checkpoint(folder):
        raise UserError(
            f"{key}: {aside} has files of an earlier run; delete it or move its content back "
            f"to {output_dir}, and then give --resume"
        )
    if aside:
        raise UserError(_stopped(aside, key, output_dir))


def _stopped(aside: Path, key: str, output_dir: str) -> str:
    return (
        f"{key}: a run with --overwrite in {output_dir!r} was stopped before its first "
        f"checkpoint; give --overwrite to start it again, or move the content of {aside} back to "
        f"{output_dir} and give --resume to continue the earlier run"
    )


def has_training(folder: Path) -> bool:
    """Return whether a folder has a training run, finished or not.

    The files of a preview, predictions or an evaluation do not count.
    """
    if _aside(folder) or (folder / "metrics.json").exists() or _has_checkpoint(folder):
        return True
    return any(CHECKPOINT.fullmatch(path.name) for path in folder.glob("model_*.pth"))


def put_aside(output_dir: str) -> None:
    """Move the files of an earlier run, if there is one, to ``earlier_run/``.

    ``earlier_run/`` may already have a run, because the run in the folder was started with
    ``--overwrite`` and has no checkpoint yet. In that case the files in the folder are deleted and
    ``earlier_run/`` is kept.

    Call this in the main process, directly before a new run writes its first file.

    Args:
        output_dir: the folder.
    """
    folder = Path(output_dir)
    if not has_training(folder):
        return
    earlier, moving = folder / EARLIER, folder / f"{EARLIER}{PARTIAL}"
    if _aside(folder) == earlier and not _has_checkpoint(folder):
        for path in _files(folder):
            path.unlink()
        return
    # last_checkpoint first, so it never names a file that has been moved.
    for path in sorted(_files(folder), key=lambda path: path.name != "last_checkpoint"):
        target = moving / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    discard_earlier(output_dir)
    if moving.is_dir():
        moving.rename(earlier)
        logger.info("Keeping the earlier run in %s until the first checkpoint", earlier)


def discard_earlier(output_dir: str) -> None:
    """Delete the files that :func:`put_aside` has moved, if there are any.

    Args:
        output_dir: the folder.
    """
    earlier = Path(output_dir, EARLIER)
    if earlier.is_dir():
        _remove_obsolete(Path(output_dir))
        earlier.rename(earlier.with_name(OBSOLETE))
        _remove_obsolete(Path(output_dir))


def where_put(output_dir: str, path: str) -> str:
    """Return the current path of a file that :func:`put_aside` may have moved.

    Args:
        output_dir: the folder.
        path: the path of a file, or a URL; returned unchanged if the file was not moved.
    """
    folder = Path(output_dir)
    aside = _aside(folder)
    if "://" in path or Path(path).resolve().parent != folder.resolve() or not aside:
        return path
    moved = aside / Path(path).name
    return str(moved) if moved.is_file() else path


def remove_partial(output_dir: str) -> None:
    """Delete the files that earlier runs were writing or deleting when they were killed.

    Args:
        output_dir: the folder.
    """
    folder = Path(output_dir)
    if (folder / EARLIER).is_dir() and _is_obsolete(folder / EARLIER):
        discard_earlier(output_dir)
    for path in _files(folder):
        if PARTIAL in path.name:
            path.unlink()
    _remove_obsolete(folder)


def drop_rows_after(metrics: Path, iteration: int) -> None:
    """Remove the rows of metrics.json that a resumed run will write again.

    A truncated last line is removed too.

    Args:
        metrics: the file, with one JSON object per line; it may be missing.
        iteration: the last iteration of the checkpoint; later rows are removed.
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
    """Return the folder to which files were moved; None if it is missing, empty or obsolete."""
    for path in (folder / f"{EARLIER}{PARTIAL}", folder / EARLIER):
        if path.is_dir() and any(path.iterdir()) and not _is_obsolete(path):
            return path
    return None


def _is_obsolete(aside: Path) -> bool:
    """Return whether the new run was killed between its first checkpoint and ``last_checkpoint``.

    That checkpoint is newer than all files that were put aside. A checkpoint that the user has
    moved back is not.
    """
    folder = aside.parent
    paths = folder.glob("model_*.pth")
    checkpoints = [path for path in paths if RESUMABLE.fullmatch(path.name)]
    if aside.name != EARLIER or _has_checkpoint(folder) or not checkpoints:
        return False
    files = (path for path in aside.rglob("*") if path.is_file())
    newest = max((path.stat().st_mtime_ns for path in files), default=0)
    return max(path.stat().st_mtime_ns for path in checkpoints) >= newest


def _files(folder: Path) -> list[Path]:
    """List the files of a run; with several test sets, each set's detections are in a subfolder."""
    if not folder.is_dir():
        return []
    entries = list(folder.iterdir())
    sets = [path for path in entries if path.name in DatasetCatalog and path.is_dir()]
    detections = [path for subset in sets for path in subset.glob("*_instances_results.json*")]
    return [path for path in (*entries, *detections) if path.is_file() and _is_run_file(path.name)]


def _is_run_file(name: str) -> bool:
    name = name.replace(PARTIAL, "")
    is_checkpoint = CHECKPOINT.fullmatch(name) is not None
    is_checkpoint = is_checkpoint or FITTED_FILE.fullmatch(name) is not None
    return name in FILES or is_checkpoint or name.startswith("events.out.tfevents.")


def _remove_obsolete(folder: Path) -> None:
    shutil.rmtree(folder / OBSOLETE, ignore_errors=True)


@contextmanager
def sole_writer(output_dir: str) -> Iterator[None]:
    """Lock the folder against a second training process; the lock ends with the process.

    Args:
        output_dir: the folder; created if it does not exist.

    Raises:
        UserError: another training process is writing there, or the folder cannot be created.
    """
    if not comm.is_main_process():
        yield
        return
    make_folder(Path(output_dir))
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
        kind: ``LOCK_EX`` to train, ``LOCK_SH`` to test whether another process trains.

    Raises:
        UserError: another process has locked it.
    """
    try:
        # Not flock: data loading workers would inherit the lock and keep it after a kill.
        fcntl.lockf(file, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        raise UserError(
            f"{output_dir}: another training run (process {file.read().strip()}) is writing to "
            "this folder; give another one"
        ) from None
    except OSError as error:
        logger.warning("Cannot lock %s against a second training process: %s", output_dir, error)
