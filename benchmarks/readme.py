#!/usr/bin/env python
"""Write the README's figures from the committed results: ``python -m benchmarks.readme``.

Between ``<!-- NAME -->`` and ``<!-- /NAME -->`` stands what the function of that name below gives.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def load(name: str) -> dict[str, Any]:
    """One committed result."""
    return json.loads((RESULTS / name).read_text())


def describe(machine: dict[str, Any]) -> str:
    """The machine in a few words."""
    return f"{machine['cores']} cores of {machine['device']}, torch {machine['torch']}"


def quickstart() -> str:
    """How long the quick start takes and what it reaches."""
    record = load("quickstart.json")
    return (
        f"Training and evaluation took {record['minutes']} minutes on "
        f"{describe(record['machine'])}, and reached box AP "
        f"{record['metrics']['bbox']['AP']:.1f} on held-out images (seed {record['seed']})."
    )


def losses() -> str:
    """Time of the ranking losses beside focal loss."""
    report = load("losses_cpu.json")
    names = {"rank_sort": "Rank & Sort", "ap": "AP", "alrp": "aLRP"}
    rows = [
        "| positives | logits | stage | focal loss | " + " | ".join(names.values()) + " |",
        "| ---: | ---: | --- | ---: |" + " ---: |" * len(names),
    ]
    for row in report["table"]:
        if row["base"] == "focal":
            cells = [f"{row['ratios'][n]:.2f} x" if n in row["ratios"] else "" for n in names]
            focal = f"{row['seconds']['focal'] * 1000:.0f} ms"
            head = f"| {row['positives']:,} | {row['logits']:,} | {row['stage']} | {focal} | "
            rows.append(head + " | ".join(cells) + " |")
    largest = report["largest"]
    return (
        "Forward and backward, as ratios to fvcore's focal loss on the same logits "
        f"({describe(report['machine'])}, {report['machine']['threads']} threads); *init*, *mid* "
        "and *late* are logits of the start, the middle and the end of a training:\n\n"
        + "\n".join(rows)
        + f"\n\n{largest['logits']:,} logits with {largest['positives']:,} positives (1,203 "
        f"classes x 200,000 anchors) take {largest['seconds']:.1f} s and "
        f"{largest['resident'] / 1e9:.1f} GB, all told. On a GPU: not run."
    )


def fill(text: str) -> str:
    """The README with its figures."""
    for make in (quickstart, losses):
        start, end = f"<!-- {make.__name__} -->\n", f"<!-- /{make.__name__} -->"
        if text.count(start) != 1 or text.count(end) != 1:
            raise ValueError(f"README.md needs {start.strip()} and {end} once each")
        before, rest = text.split(start)
        text = f"{before}{start}{make()}\n{end}{rest.split(end)[1]}"
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text()))
