#!/usr/bin/env python
"""Train the quick start and record its AP, time and picture for the README.

From the root of the repository: ``python -m benchmarks.quickstart``. Runs ``train_net.py`` on the
config of the quick start as a user would, and writes ``benchmarks/results/quickstart.json`` and
``quickstart.png``. Run nothing else at the same time.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch

from benchmarks.machine import describe_machine
from benchmarks.training import SEED, train

CONFIG = "configs/shapes/retinanet_atss_rs.py"


def main() -> None:
    """Train and evaluate the quick start; save its metrics, time and picture."""
    results = Path(__file__).parent / "results"
    with tempfile.TemporaryDirectory() as folder:
        minutes, metrics = train(CONFIG, folder)
        record = {
            "command": f"python train_net.py --config-file {CONFIG}",
            "seed": SEED,
            "minutes": round(minutes, 1),
            "metrics": metrics,
            "machine": describe_machine("cuda" if torch.cuda.is_available() else "cpu"),
        }
        (results / "quickstart.json").write_text(json.dumps(record, indent=1) + "\n")
        shutil.copy(Path(folder, "detections.png"), results / "quickstart.png")
    print(f"AP {record['metrics']['bbox']['AP']:.1f} in {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
