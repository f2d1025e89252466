"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

PARTIAL = ".partial"
"""In the name of a file that is being written."""


def write_whole(path: Path, text: str) -> None:
    """Write a text so that a reader, or a kill, never meets half of it."""
    partial = path.with_name(path.name + PARTIAL)
    partial.write_text(text, encoding="utf-8", newline="")
    rename_whole(partial, path)


def rename_whole(partial: Path, final: Path) -> None:
    """Give a file its name, after its data has reached the disk."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(final)
