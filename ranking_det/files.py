"""Atomic file writes: readers see the whole file or none of it. JSON, CSV and metrics.json."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ranking_det.user_errors import UserError

TableRow = Mapping[str, str | int]

PARTIAL = ".partial"
"""Part of the name of a file that is being written."""


def make_folder(path: Path) -> None:
    """Create a folder and its parents, unless it exists.

    Args:
        path: the folder.

    Raises:
        UserError: the folder cannot be created, such as on a read-only file system.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: expected a writable folder, got an error: {error.strerror}"
        ) from error


def partial_path(path: Path) -> Path:
    """Return the temporary path to which a file is written before it is renamed."""
    return path.with_name(path.name + PARTIAL)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically: it is never half written, even if the process is killed.

    A symbolic link is kept and its target is written. A device or a pipe would be replaced by a
    regular file.

    Args:
        path: the file; its folder must exist.
        content: bytes, or a text, which is written as UTF-8.
    """
    path = path.resolve()
    partial = partial_path(path)
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        rename_whole(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def reserve_space(path: Path, size: int) -> None:
    """Reserve disk space for a later :func:`write_whole`, so that a full disk cannot stop it.

    Only Linux has the system call; on other systems nothing is reserved.

    Args:
        path: the file; its folder must exist.
        size: the number of bytes that the file will have.
    """
    if sys.platform != "linux":
        return
    descriptor = os.open(partial_path(path.resolve()), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically.

    Args:
        path: the file; its folder must exist.
        content: plain values, lists and dicts.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot express.
    """
    write_whole(path, json.dumps(content, allow_nan=False) + "\n")


def without_nan(value: Any) -> Any:
    """Replace NaN, an undefined number, with None, because JSON has no NaN.

    Args:
        value: a metric, or a mapping or list of metrics, which may be nested.

    Returns:
        The metric, or a copy of the mapping or list.
    """
    if isinstance(value, Mapping):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_table(path: Path, columns: Sequence[str], rows: Iterable[TableRow]) -> None:
    """Write a CSV file atomically.

    Args:
        path: the file; its folder must exist.
        columns: the column names, written as the first line.
        rows: a mapping from column name to cell for each further line.
    """
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, table.getvalue())


def rename_whole(partial: Path, final: Path) -> None:
    """Flush a file to disk, then rename it.

    Args:
        partial: the written file.
        final: its new path, on the same file system; an existing file is replaced.
    """
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(final)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read a metrics.json: one record per logged iteration.

    A resumed run appends to the file, so iterations may repeat; later values override earlier
    ones. Lines that are not valid JSON are skipped, such as a last line cut off when the run was
    killed.

    Args:
        path: a metrics.json.

    Returns:
        The records in the order of their iterations, each with ``iteration`` and the metrics.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    records: dict[int, dict[str, Any]] = {}
    for line in Path(path).read_text().splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # also a number of thousands of digits
            continue
        records.setdefault(record["iteration"], {}).update(record)
    return [records[iteration] for iteration in sorted(records)]
