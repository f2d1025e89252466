#!/usr/bin/env python
"""Train on BCCD (public images of blood cells) as in docs/own-data.md; record AP and time.

From the root of the repository: ``python -m benchmarks.blood_cells BCCD_Dataset/BCCD``, with a
clone of https://github.com/Shenggan/BCCD_Dataset. Writes ``benchmarks/results/blood_cells.json``.
Run nothing else at the same time, because training is timed.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.docs import RESULTS
from benchmarks.machine import describe_machine
from benchmarks.training import SEED, train

QUICK = "configs/shapes/quick/retinanet_atss_rs.py"
LITE0 = "configs/own/retinanet_atss_rs_lite0.py"
# 305 iterations of 16 images are five minutes on two cores of a Xeon.
FIVE_MINUTES = "train.max_iter=305"
RUNS: dict[str, tuple[str, list[str]]] = {
    # The image size and the schedule of docs/own-data.md.
    "walk": (
        QUICK,
        [
            f"dataloader.{split}.mapper.augmentations.0.{key}"
            for split in ("train", "test")
            for key in ("short_edge_length=192", "max_size=256")
        ]
        + ["train.epochs=8"],
    ),
    "lite0": (LITE0, [FIVE_MINUTES]),
    "lite0_from_scratch": (LITE0, ["model.backbone.bottom_up.pretrained=false", FIVE_MINUTES]),
}


def main() -> None:
    """Train and evaluate; save the metrics, the AP of each class and the time of each run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", help="the folder with Annotations, ImageSets and JPEGImages")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    args = parser.parse_args()
    path = RESULTS / "blood_cells.json"
    records = json.loads(path.read_text()) if path.exists() else {}
    for name in args.runs:
        records[name] = measure(*RUNS[name], str(Path(args.folder).resolve()))
        path.write_text(json.dumps(records, indent=1) + "\n")
        record = records[name]
        print(f"{name}: AP {record['metrics']['bbox']['AP']:.1f} in {record['minutes']} minutes")


def measure(config: str, overrides: list[str], folder: str) -> dict[str, Any]:
    """Train and evaluate a config on the images of a folder.

    Args:
        config: path of the LazyConfig.
        overrides: overrides of its keys.
        folder: argument of ``--train``.

    Returns:
        What was run, for how many minutes, on which machine; the metrics and the AP of each class.
    """
    with tempfile.TemporaryDirectory() as output_dir:
        flags = ["--train", folder]
        minutes, metrics = train(config, output_dir, flags=flags, overrides=overrides)
        with Path(output_dir, "per_class_ap.csv").open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            per_class = {row["class"]: round(float(row["bbox_AP"]), 1) for row in rows}
    return {
        "config": config,
        "overrides": overrides,
        "seed": SEED,
        "minutes": round(minutes, 1),
        "metrics": metrics,
        "per_class_ap": per_class,
        "machine": describe_machine("cuda" if torch.cuda.is_available() else "cpu"),
    }


if __name__ == "__main__":
    main()
