"""The AP of classes as a table that spreadsheets read."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ranking_det.files import write_whole

Row = Mapping[str, str | int]


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write a CSV file, whole or not at all.

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


def precision_cell(value: float) -> str:
    """An AP with three decimals, empty for NaN: a class without an object."""
    return "" if math.isnan(value) else f"{value:.3f}"
