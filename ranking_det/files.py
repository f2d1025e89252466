"""Files that are there whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

TableRow = Mapping[str, str | int]

PARTIAL = ".partial"
"""In the name of a file that is being written."""


def partial_path(path: Path) -> Path:
    """Where a file is while it is being written; what is there is replaced, and gone then."""
    return path.with_name(path.name + PARTIAL)


def write_whole(path: Path, text: str) -> None:
    """Write a text so that a reader, or a kill, never meets half of it.

    A link stays, and what it leads to is written; a device or pipe would become a regular file.
    """
    path = path.resolve()
    partial = partial_path(path)
    try:
        partial.write_text(text, encoding="utf-8", newline="")
        rename_whole(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON in the same way.

    Raises:
        ValueError: a number is not finite, which JSON has not.
    """
    write_whole(path, json.dumps(content, allow_nan=False) + "\n")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[TableRow]) -> None:
    """Write a CSV file, which spreadsheets read, in the same way.

    Args:
        path: the file; its folder is there.
        columns: the first line.
        rows: a cell per column.
    """
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, table.getvalue())


def rename_whole(partial: Path, final: Path) -> None:
    """Give a file its name, after its data has reached the disk."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(final)
