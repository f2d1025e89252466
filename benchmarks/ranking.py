#!/usr/bin/env python
"""Compare how well detectors trained with focal loss, AP Loss and Rank & Sort Loss rank.

Run ``python -m benchmarks.ranking --bccd BCCD_Dataset/BCCD`` from the root of the repository, with
a clone of https://github.com/Shenggan/BCCD_Dataset. Without ``--bccd`` it trains on the shapes
only. Trains RetinaNet with ATSS once per loss and seed, four to nine minutes each on two CPU cores,
and writes ``benchmarks/results/ranking/DATA_LOSS_SEED.json`` after each run. Runs that have a JSON
are skipped, so an interrupted script continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.docs import RESULTS
from benchmarks.machine import describe_machine
from benchmarks.training import ROOT, train
from ranking_det.files import write_whole

LOSSES = {
    "focal": "configs/shapes/quick/retinanet_atss_focal.py",
    "ap": "configs/shapes/quick/retinanet_atss_ap.py",
    "rank_sort": "configs/shapes/quick/retinanet_atss_rs.py",
}
SEEDS = (0, 1, 2)
# Twice the length of the quick configs.
SHAPES = ["train.epochs=6.4"]
# About 400 iterations at half the image size.
BCCD = [
    f"dataloader.{split}.mapper.augmentations.0.{key}"
    for split in ("train", "test")
    for key in ("short_edge_length=240", "max_size=320")
] + ["train.epochs=16"]
METRICS = ("AP", "AP50", "AP75", "oLRP", "oLRPLoc", "oLRPFP", "oLRPFN", "pooledAP")


def analyze(*words: str) -> Any:
    """Run ``python -m ranking_det.analysis`` with an output file; return its content."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "output.json")
        command = [sys.executable, "-m", "ranking_det.analysis", *words, "--output", str(output)]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        return json.loads(output.read_text())


def measure(config: str, overrides: list[str], seed: int, bccd: str | None) -> dict[str, Any]:
    """Train a config and measure how well its detections and candidates are ranked.

    Args:
        config: path of the LazyConfig.
        overrides: overrides of its keys.
        seed: seed of the training.
        bccd: the folder of BCCD; None to train on the shapes.

    Returns:
        The config, its overrides and seed, the minutes, the machine, and the metrics.
    """
    data = ["--train", bccd] if bccd else []
    with tempfile.TemporaryDirectory() as folder:
        minutes, _ = train(config, folder, flags=data, overrides=overrides, seed=seed)
        shapes = "datasets/shapes/annotations/instances_val.json"
        files = ["--ground-truth", str(Path(folder, "data/val.json")) if bccd else shapes]
        files += ["--results", str(Path(folder, "coco_instances_results.json"))]
        files += ["--iou-type", "bbox"]
        detections = analyze("detections", *files)["overall"]
        fitted = analyze("fit", *files)["measured"]
        words = ["--config-file", config, *(["--val", bccd] if bccd else [])]
        pairs = analyze("pairs", *words, *overrides, f"train.output_dir={folder}")
    head = pairs["heads"]["dense"]
    return {
        "config": config,
        "overrides": overrides,
        "seed": seed,
        "minutes": round(minutes, 1),
        "machine": describe_machine("cuda" if torch.cuda.is_available() else "cpu"),
        "metrics": {name: detections[name] for name in METRICS},
        "correlation": detections["correlation"],
        "reverse_pairs": {
            "foreground_background": head["foreground_background"],
            "positive_negative": head["positive_negative"],
            "positive_positive": head["positive_positive"],
        },
        "LaECE_0": {when: fitted[when]["overall"]["LaECE_0"] for when in ("before", "after")},
    }


def main() -> None:
    """Train and measure the runs that have no result file yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    folders = "Annotations, ImageSets and JPEGImages"
    parser.add_argument("--bccd", metavar="FOLDER", help=f"the folder with {folders}")
    args = parser.parse_args()
    folder = RESULTS / "ranking"
    folder.mkdir(exist_ok=True)
    datasets: dict[str, tuple[list[str], str | None]] = {"shapes": (SHAPES, None)}
    if args.bccd:
        datasets["bccd"] = BCCD, str(Path(args.bccd).resolve())
    for seed in SEEDS:
        for name, (overrides, bccd) in datasets.items():
            for loss, config in LOSSES.items():
                path = folder / f"{name}_{loss}_{seed}.json"
                if path.exists():
                    continue
                record = measure(config, overrides, seed, bccd)
                write_whole(path, json.dumps(record, indent=1) + "\n")
                metrics = record["metrics"]
                print(f"{path.stem}: AP {metrics['AP']:.1f} in {record['minutes']} minutes")


if __name__ == "__main__":
    main()
