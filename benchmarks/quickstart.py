#!/usr/bin/env python
"""Time the quick start's training and keep its figures for the README.

From the root of the repository: ``python -m benchmarks.quickstart``. Runs ``train_net.py`` on the
quick start's config as a user would, and writes ``benchmarks/results/quickstart.json`` and
``quickstart.png``. Nothing else should run meanwhile.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.machine import describe_machine

ROOT = Path(__file__).parents[1]
CONFIG = "configs/shapes/retinanet_atss_rs.py"
SEED = 0


def main() -> None:
    """Train, evaluate, and keep metrics, time and picture."""
    results = Path(__file__).parent / "results"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train_net.py", "--config-file", CONFIG]
        start = time.monotonic()
        subprocess.run(
            [*command, f"train.seed={SEED}", f"train.output_dir={folder}"], check=True, cwd=ROOT
        )
        minutes = (time.monotonic() - start) / 60
        record = {
            "command": f"python train_net.py --config-file {CONFIG}",
            "seed": SEED,
            "minutes": round(minutes, 1),
            "metrics": json.loads(Path(folder, "results.json").read_text()),
            "machine": describe_machine("cuda" if torch.cuda.is_available() else "cpu"),
        }
        (results / "quickstart.json").write_text(json.dumps(record, indent=1) + "\n")
        shutil.copy(Path(folder, "detections.png"), results / "quickstart.png")
    print(f"AP {record['metrics']['bbox']['AP']:.1f} in {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
