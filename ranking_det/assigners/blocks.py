"""Blocks of objects, so that memory stays bounded in crowded images."""

from __future__ import annotations

from collections.abc import Iterator

BLOCK_ENTRIES = 1 << 24
"""Entries of one block of a (G, R) matrix: 64 MiB in float32."""


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices over the rows of a (rows, columns) matrix of at most BLOCK_ENTRIES entries each."""
    step = max(1, BLOCK_ENTRIES // max(columns, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
