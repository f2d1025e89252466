"""Process a matrix in blocks of rows, so memory stays bounded for matrices of any size."""

from __future__ import annotations

from collections.abc import Iterator

BLOCK_ENTRIES = 1 << 24
"""Entries of one block of a (G, R) matrix: 64 MiB in float32."""


def blocks(rows: int, columns: int, entries: int | None = None) -> Iterator[slice]:
    """Split the rows of a (rows, columns) matrix into blocks of bounded size.

    Args:
        rows: the number of rows, >= 0.
        columns: the number of columns, >= 0.
        entries: the maximum number of entries in a block; None for BLOCK_ENTRIES. A block has at
            least one row, even if that row has more entries.

    Yields:
        Slices of rows, in order.

    >>> list(blocks(5, 3, entries=6))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, (BLOCK_ENTRIES if entries is None else entries) // max(columns, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
