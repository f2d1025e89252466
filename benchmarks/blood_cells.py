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

import torch

from benchmarks.docs import RESULTS
from benchmarks.machine import describe_machine
from benchmarks.training import SEED, train

CONFIG = "configs/shapes/quick/retinanet_atss_rs.py"
# The image size and the schedule of docs/own-data.md.
OVERRIDES = [
    f"dataloader.{split}.mapper.augmentations.0.{key}"
    for split in ("train", "test")
    for key in ("short_edge_length=192", "max_size=256")
] + ["train.epochs=8"]


def main() -> None:
    """Train and evaluate; save the metrics, the AP of each class and the time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", help="the folder with Annotations, ImageSets and JPEGImages")
    flags = ["--train", str(Path(parser.parse_args().folder).resolve())]
    with tempfile.TemporaryDirectory() as output_dir:
        minutes, metrics = train(CONFIG, output_dir, flags=flags, overrides=OVERRIDES)
        with Path(output_dir, "per_class_ap.csv").open(encoding="utf-8", newline="") as file:
            per_class = {
                row["class"]: round(float(row["bbox_AP"]), 1) for row in csv.DictReader(file)
            }
    record = {
        "config": CONFIG,
        "overrides": OVERRIDES,
        "seed": SEED,
        "minutes": round(minutes, 1),
        "metrics": metrics,
        "per_class_ap": per_class,
        "machine": describe_machine("cuda" if torch.cuda.is_available() else "cpu"),
    }
    (RESULTS / "blood_cells.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"AP {metrics['bbox']['AP']:.1f} in {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
