"""Hide the warnings that torch and Detectron2 cause in each other at every start of a command."""

from __future__ import annotations

import logging
import sys
import warnings

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


def hide_in_commands() -> None:
    """Hide the warnings if a command is starting: ``python -m ranking_det.NAME``.

    Some packages import Detectron2 before the command in them runs. Call this in their
    ``__init__``.
    """
    if sys.argv[:1] == ["-m"]:  # Python's value while it imports the packages of a command
        hide_library_warnings()
