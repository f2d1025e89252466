"""One timed training, run as a user would run it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SEED = 0


def train(config: str, folder: str, *, quiet: bool = False) -> tuple[float, dict[str, Any]]:
    """Run ``train_net.py`` in a process of its own.

    Args:
        config: path of a LazyConfig from the root of the repository.
        folder: the output folder.
        quiet: print nothing.

    Returns:
        The minutes of training and evaluation, and the metrics.
    """
    options = [f"train.seed={SEED}", f"train.output_dir={folder}"]
    start = time.monotonic()
    subprocess.run(
        [sys.executable, "train_net.py", "--config-file", config, *options],
        check=True,
        cwd=ROOT,
        stdout=subprocess.DEVNULL if quiet else None,
    )
    minutes = (time.monotonic() - start) / 60
    return minutes, json.loads(Path(folder, "results.json").read_text())
