"""Hide the warnings of torch and Detectron2 at the start of a command, and Ctrl-C's traceback."""

from __future__ import annotations

import logging
import sys
import warnings
from types import TracebackType

MESSAGES = {
    ".*torch.jit.script.* is deprecated": FutureWarning,
    "torch.meshgrid: in an upcoming release": UserWarning,
    "`broadcast_buffers` is deprecated": FutureWarning,
    "TypedStorage is deprecated": UserWarning,
    "pkg_resources is deprecated as an API": Warning,
}
"""The start of each message, as a regular expression, and its category."""


def hide_library_warnings() -> None:
    """Hide the warnings for this process. Call it before torch and Detectron2 are imported.

    Only the commands call this. A program that imports the package keeps its warning filters.
    """
    for message, category in MESSAGES.items():
        warnings.filterwarnings("ignore", message, category)
    # Detectron2 looks for a compiler when it logs the environment. On a machine with CUDA's
    # compiler but without a GPU, torch would log a warning.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    # Detectron2's main calls a function of torch that warns once per process.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)


def shorten_interrupts() -> None:
    """Print one line for Ctrl-C instead of a traceback, also while a command imports its packages.

    Python then ends the process by SIGINT, for which shells give the exit status 130. Only the
    commands call this.
    """

    def report(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.stderr.write("stopped by SIGINT\n")
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = report


def hide_in_commands() -> None:
    """Hide the warnings and Ctrl-C's traceback if ``python -m ranking_det.NAME`` is starting.

    Some packages import Detectron2 before the command in them runs. Call this in their
    ``__init__``.
    """
    if sys.argv[:1] == ["-m"]:  # Python's value while it imports the packages of a command
        hide_library_warnings()
        shorten_interrupts()
