"""Blocks of rows, so that memory stays bounded however large a matrix is."""

from __future__ import annotations

from collections.abc import Iterator

BLOCK_ENTRIES = 1 << 24
"""Entries of one block of a (G, R) matrix: 64 MiB in float32."""


def blocks(rows: int, columns: int, entries: int | None = None) -> Iterator[slice]:
    """Slices over the rows of a (rows, columns) matrix, of one row at least.

    Args:
        rows: how many.
        columns: how many.
        entries: the most of a block; None for BLOCK_ENTRIES.

    >>> list(blocks(5, 3, entries=6))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, (BLOCK_ENTRIES if entries is None else entries) // max(columns, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
