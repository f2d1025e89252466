"""Turn failures in the middle of a run into one line: a killed process, a full disk, a lost folder.

Such a failure needs no traceback. The line says what failed, why, and how to continue.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch.distributed import DistError
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ranking_det.files import PARTIAL
from ranking_det.user_errors import RunError, reason_of

# How torch's DataLoader reports the death of one of its processes.
LOADING = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: ([\w -]+?)\.|exited)"
)
# How Gloo reports that another process has ended or does not answer.
LOST = re.compile(r"(?i)connection (?:closed|reset|refused)|timed out|broken pipe|socket closed")

REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EROFS: "make it writable",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
}
NAMELESS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.ESTALE}
"""Errors of a disk, which often come without the name of the file."""


def run_failure(
    error: BaseException, folders: Iterable[str | None], advice: Callable[[], str]
) -> RunError | None:
    """Turn a failure that no check could foresee into an error with a one-line message.

    Args:
        error: any error, with its traceback.
        folders: the folders that the run writes to.
        advice: returns how to continue.

    Returns:
        The error; None for any other failure.
    """
    for folder in filter(None, folders):
        failure = output_failure(error, folder, advice())
        if failure:
            return RunError(failure)
    lost = lost_connection(error)
    if lost:
        return RunError(f"lost the connection to another process ({lost}); {advice()}")
    loading = loading_failure(error)
    return RunError(f"{loading}, and {advice()}") if loading else None


def killed_by(number: int) -> str:
    """Describe a signal that has ended a process, and its likely cause.

    Args:
        number: the number of the signal.

    >>> killed_by(9)
    'was killed by SIGKILL, probably because memory ran out'
    """
    causes: dict[int, str] = {
        signal.SIGKILL: ", probably because memory ran out",
        signal.SIGBUS: ", probably because the shared memory (/dev/shm) was full",
    }
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    crashes = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
    verb = "crashed with" if number in crashes else "was killed by"
    return f"{verb} {name}{causes.get(number, '')}"


def loading_failure(error: BaseException) -> str:
    """Describe the death of a process that loads images.

    Args:
        error: any error, with its traceback.

    Returns:
        The description; "" if the error is another one.
    """
    match = LOADING.search(str(error))
    # A process that dies while it sends an image breaks a connection, without torch's message.
    if match is None and not isinstance(error, (ConnectionError, EOFError)):
        return ""
    process, number = match[1] if match else "", 0
    for worker in _loading_processes(error):
        worker.join(1)  # it is dead, but its parent may not have noticed
        if worker.exitcode and process in ("", str(worker.pid)):
            process, number = str(worker.pid), -worker.exitcode
    if not process:
        return ""
    if match and match[2]:
        signals = {signal.strsignal(known): known for known in signal.valid_signals()}
        number = signals.get(match[2], number)
    cause = killed_by(number) if number > 0 else "ended without a message"
    return (
        f"a process that loads images (process {process}) {cause}; lower "
        "dataloader.train.num_workers or dataloader.test.num_workers (0 loads in the main process)"
    )


def _loading_processes(error: BaseException) -> list[Any]:
    """Return the processes of the data loader in which the error was raised; live ones last."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        loader = frame.f_locals.get("self")
        if isinstance(loader, _MultiProcessingDataLoaderIter):
            return [worker for worker in loader._workers if not worker.is_alive()] or list(
                loader._workers
            )
    return []


def lost_connection(error: BaseException) -> str:
    """Return the reason if an error means that another process of the run does not answer.

    Args:
        error: any error.

    Returns:
        The reason; "" if the error is another one.
    """
    is_gloo = isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    if isinstance(error, DistError) or (is_gloo and LOST.search(str(error))):
        return reason_of(error)
    return ""


def output_failure(error: BaseException, folder: str, advice: str) -> str:
    """Describe a failure to write a file of the output folder.

    Args:
        error: any error.
        folder: the output folder.
        advice: how to continue afterwards.

    Returns:
        The description with a remedy; "" if the error is another one.
    """
    if not isinstance(error, OSError) or error.errno is None:
        return ""
    path = os.path.abspath(os.fsdecode(error.filename or folder))
    is_inside = error.filename is not None and Path(path).is_relative_to(os.path.abspath(folder))
    if not is_inside and error.errno not in NAMELESS:
        return ""
    if not os.path.isdir(folder):
        return (
            f"the output folder {folder} was deleted or moved during the run; move it back or "
            "start again"
        )
    place = path.replace(PARTIAL, "") if is_inside else folder
    remedy = REMEDIES.get(error.errno, "check the disk")
    return f"{place}: cannot write ({error.strerror}); {remedy} and {advice}"
