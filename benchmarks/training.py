"""Train and evaluate a config with ``train_net.py``, as a user would, and time it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SEED = 0


def train(
    config: str,
    folder: str,
    *,
    flags: Sequence[str] = (),
    overrides: Sequence[str] = (),
    seed: int = SEED,
    quiet: bool = False,
) -> tuple[float, dict[str, Any]]:
    """Train and evaluate a config with ``train_net.py`` in a child process.

    Args:
        config: path of a LazyConfig, relative to the root of the repository.
        folder: output folder.
        flags: extra flags of ``train_net.py``.
        overrides: overrides of config keys.
        seed: random seed.
        quiet: discard standard output.

    Returns:
        The minutes that training and evaluation took, and the metrics.
    """
    options = [*flags, *overrides, f"train.seed={seed}", f"train.output_dir={folder}"]
    start = time.monotonic()
    subprocess.run(
        [sys.executable, "train_net.py", "--config-file", config, *options],
        check=True,
        cwd=ROOT,
        stdout=subprocess.DEVNULL if quiet else None,
    )
    minutes = (time.monotonic() - start) / 60
    return minutes, json.loads(Path(folder, "results.json").read_text())
