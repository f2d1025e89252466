"""Collect the faults of annotation files: refused, left out, cut, corrected, skipped or noted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ranking_det.user_errors import UserError, show

SHOWN = 10
"""Maximum number of faults that a message describes."""

MAX_ROWS = 10_000
"""Maximum number of faults of each kind that are kept with their place; all are counted."""

FAULT_LIMIT, FAULT_SHARE = 10, 0.05
"""Data are refused if the faulty objects, or images, exceed both this number and this share."""

REFUSED, LEFT_OUT, CUT, CORRECTED = "refused", "left out", "cut to under half", "corrected"
NOTED, SKIPPED = "noted", "skipped"
"""What happens to a faulty entry. Objects that are left out or cut count against the file's limit.

Unreadable and missing images are skipped. A note is not a fault: it says that an entry is read
differently from how it is written.
"""

CONVERTED_FROM = "converted_from"
"""The key of an annotation's place in the file of another format, such as ``1.xml, object 3``."""

_NOUNS = {"categories": "category", "images": "image", "annotations": "annotation"}
_LISTS = {"bbox": "result", "segm": "result"}


class Fault(NamedTuple):
    """One fault, as a row of ``data_faults.csv``.

    Attributes:
        file: the annotation file.
        place: the entry, such as ``annotations[3]``, ``object 3`` or ``line 3``; "" for the file.
        id: its id, if it has one.
        image: the id of its image, or its name where images have no id; empty for categories.
        kind: the kind of fault; faults are counted by kind.
        action: what happens to the entry.
        text: the fault in words, with the value.
    """

    file: str
    place: str
    id: Any
    image: Any
    kind: str
    action: str
    text: str

    def __str__(self) -> str:
        section, bracket, _ = self.place.partition("[")
        if self.id != "":
            return f"{self.file}: {_NOUNS[section]} {show(self.id)} ({self.place}): {self.text}"
        separator = ": " if bracket else ", "
        return f"{separator.join(filter(None, (self.file, self.place)))}: {self.text}"


class Faults:
    """Counts of the faults of a file or folder by kind and action, with the first ones of each.

    Args:
        file: the file or folder, as messages name it.

    Attributes:
        counts: the number of faults by (action, kind).
        rows: the first :data:`MAX_ROWS` of each action and kind.
        remarks: lines that say what was checked.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.counts: Counter[tuple[str, str]] = Counter()
        self.rows: list[Fault] = []
        self.remarks: list[str] = []

    def add(
        self, action: str, kind: str, text: str, section: str, index: int, entry: Any = None
    ) -> None:
        """Count a fault of the entry ``section[index]``.

        Args:
            action: what happens to the entry.
            kind: the kind of fault, in a few words.
            text: the fault in words, with the value.
            section: "categories", "images", "annotations", or the IoU type of results.
            index: the index of the entry in its section.
            entry: the entry, for its id and its image's id. An annotation that was converted
                from another format has its place there as ``converted_from``.
        """
        fields = entry if isinstance(entry, dict) else {}
        identity = fields.get("id", "") if section in _NOUNS else ""
        image = fields.get("image_id", "") if section == "annotations" else identity
        file, place = self.file, f"{_LISTS.get(section, section)}[{index}]"
        source = fields.get(CONVERTED_FROM)
        if isinstance(source, str):
            (file, _, place), identity = source.rpartition(", "), ""
        self.add_row(Fault(file, place, identity, image, kind, action, text))

    def add_row(self, fault: Fault) -> None:
        """Count a fault that is described in full.

        Args:
            fault: the fault.
        """
        self.counts[fault.action, fault.kind] += 1
        if self.counts[fault.action, fault.kind] <= MAX_ROWS:
            self.rows.append(fault)

    def remark(self, text: str) -> None:
        """Add a line to the remarks, once.

        Args:
            text: the line.
        """
        if text not in self.remarks:
            self.remarks.append(text)

    def total(self, *actions: str) -> int:
        """Return the number of faults with one of these actions."""
        return sum(count for (action, _), count in self.counts.items() if action in actions)

    def check(self, *actions: str, hint: str = "") -> None:
        """Raise an error if there are faults with one of these actions.

        Args:
            actions: the actions; default ``REFUSED``.
            hint: the end of the first line of the message.

        Raises:
            UserError: the message is one line for one fault. Otherwise it counts the faults, and
                shows the first ten in a line each.
        """
        actions = actions or (REFUSED,)
        rows = [row for row in self.rows if row.action in actions]
        total = self.total(*actions)
        if not total:
            return
        if total == 1:
            raise UserError(f"{rows[0]}{hint}")
        kinds = Counter()
        for (action, kind), count in self.counts.items():
            if action in actions:
                kinds[kind] += count
        kind_counts = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
        head = f"{self.file}: {total} faults ({kind_counts}){hint}"
        ending = f"; the first {SHOWN}:" if total > SHOWN else ":"
        raise UserError("\n  ".join([head + ending, *map(str, rows[:SHOWN])]))

    def check_limit(
        self, actions: Sequence[str], num_entries: int, noun: str, max_faults: int | None
    ) -> None:
        """Raise an error if too many entries have faults with one of these actions.

        Args:
            actions: the actions.
            num_entries: the number of all entries, faulty or not.
            noun: what they are, such as "objects in total".
            max_faults: maximum number of faulty entries, >= 0; None for :data:`FAULT_LIMIT`, or
                :data:`FAULT_SHARE` of the entries if that is more.

        Raises:
            UserError: see :meth:`check`.
        """
        count = self.total(*actions)
        limit = max(FAULT_LIMIT, FAULT_SHARE * num_entries) if max_faults is None else max_faults
        if count > limit:
            hint = f"; --max-faults {count} accepts this ({num_entries} {noun})"
            self.check(*actions, hint=hint)

    def summary(self) -> Iterator[str]:
        """Yield the remarks, and a line for each kind of fault that is not refused."""
        yield from self.remarks
        for (action, kind), count in sorted(self.counts.items()):
            if action != REFUSED:
                yield f"{action}: {kind}: {count}"
