#!/usr/bin/env python
"""Train every quick config and record its AP and time for docs/configs.md.

From the root of the repository: ``python -m benchmarks.quick [NAME ...]``. Writes
``benchmarks/results/quick.json`` after each run. With names, only those runs are replaced. Run
nothing else at the same time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe_machine
from benchmarks.training import ROOT, SEED, train

CONFIGS = ROOT / "configs" / "shapes" / "quick"


def measure(name: str) -> dict[str, Any]:
    """Train and evaluate a config; return its minutes, its metrics and the machine."""
    with tempfile.TemporaryDirectory() as folder:
        minutes, metrics = train(f"configs/shapes/quick/{name}.py", folder, quiet=True)
    overall = {
        task: {key: value for key, value in values.items() if "-" not in key}
        for task, values in metrics.items()
    }
    machine = describe_machine("cuda" if torch.cuda.is_available() else "cpu")
    return {"minutes": round(minutes, 2), "metrics": overall, "machine": machine}


def main() -> None:
    """Run the selected quick configs and update quick.json after each."""
    configs = sorted(config.stem for config in CONFIGS.glob("*.py"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as retinanet_atss_rs")
    names = parser.parse_args().names
    if unknown := sorted({*names} - {*configs}):
        parser.error(f"NAME: expected some of {', '.join(configs)}, got {', '.join(unknown)}")
    path = Path(__file__).parent / "results" / "quick.json"
    runs = json.loads(path.read_text())["runs"] if path.exists() and names else {}
    for name in names or configs:
        runs[name] = measure(name)
        ap, minutes = runs[name]["metrics"]["bbox"]["AP"], runs[name]["minutes"]
        print(f"{name:<26} box AP {ap:5.1f}  {minutes} minutes")
        path.write_text(json.dumps({"seed": SEED, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
