"""Faults in the entries of an annotation file, counted and put into words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from ranking_det.user_errors import UserError

SHOWN = 10
Fault = tuple[str, str]  # its kind, by which faults are counted, and what is wrong
_SINGULAR = {"categories": "category", "images": "image", "annotations": "annotation"}


class Faults:
    """Counts the faults of one file by kind and keeps the first ten in words.

    Args:
        json_file: the file, as messages name it.
    """

    def __init__(self, json_file: str) -> None:
        self.json_file = json_file
        self.counts: Counter[str] = Counter()
        self.lines: list[str] = []

    def add(self, section: str, index: int, entry: Any, faults: Iterable[Fault]) -> None:
        """Count the faults of the entry ``section[index]`` of the file."""
        for kind, text in faults:
            self.counts[kind] += 1
            if len(self.lines) < SHOWN:
                place = f"{section}[{index}]"
                if isinstance(entry, dict) and "id" in entry:
                    place = f"{_SINGULAR[section]} {show(entry['id'])} ({place})"
                self.lines.append(f"{self.json_file}: {place}: {text}")

    def check(self) -> None:
        """Raise UserError if there are any."""
        total = self.counts.total()
        if total == 1:
            raise UserError(self.lines[0])
        if total:
            kinds = ", ".join(f"{kind} {count}" for kind, count in self.counts.most_common())
            head = f"{self.json_file}: {total} faults ({kinds})"
            more = f"; the first {SHOWN}:" if total > SHOWN else ":"
            raise UserError("\n  ".join([head + more, *self.lines]))


def show(value: Any) -> str:
    """The value as a message shows it, cut short if it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
