"""Turn failures in the middle of a run into one line: a killed process, a full disk, a lost folder.

Such a failure needs no traceback. The line names what failed, by what cause, and how to continue.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from pathlib import Path

from torch.distributed import DistError

from ranking_det.files import PARTIAL
from ranking_det.user_errors import reason_of

# How torch's DataLoader reports the death of one of its processes.
LOADING = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: ([\w -]+?)\.|exited)"
)
# How Gloo reports that another process has ended or does not answer.
LOST = re.compile(r"(?i)connection (?:closed|reset|refused)|timed out|broken pipe|socket closed")

REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space of your quota",
    errno.EROFS: "make it writable",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
}
NAMELESS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.ESTALE}
"""Errors of a disk, which often come without the name of the file."""


def killed_by(number: int) -> str:
    """Describe a signal that has ended a process, and its likely cause.

    Args:
        number: the number of the signal.

    >>> killed_by(9)
    'was killed by SIGKILL, probably because the memory was full'
    """
    causes: dict[int, str] = {
        signal.SIGKILL: ", probably because the memory was full",
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
        error: any error.

    Returns:
        The description; "" if the error is another one.
    """
    match = LOADING.search(str(error))
    if match is None:
        return ""
    numbers = {signal.strsignal(number): number for number in signal.valid_signals()}
    number = numbers.get(match[2])
    cause = "ended without a message" if number is None else killed_by(number)
    return (
        f"a process that loads images (process {match[1]}) {cause}; lower "
        "dataloader.train.num_workers (0 loads in the main process) and dataloader.test.num_workers"
    )


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
    """Describe that a file of the output folder could not be written.

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
