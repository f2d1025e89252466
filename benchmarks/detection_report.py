#!/usr/bin/env python
"""Make the picture of a report on detections: ``python -m benchmarks.detection_report``.

Trains RetinaNet with ATSS for twice the epochs of the quick configs, once with focal loss and once
with Rank & Sort Loss (some minutes each on two CPU cores; skipped if a trained model exists).
Compares the two models with ``python -m ranking_det.analysis report``, and takes pictures of the
page with Chromium.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
METHODS = {"focal loss": "retinanet_atss_focal", "Rank & Sort": "retinanet_atss_rs"}
RUNS, REPORT = "output/shapes/report_runs", "output/shapes/report"

WIDTH, HEIGHTS = 1280, (1840, 925)
"""Width of the page, and heights of the pictures of its top and of its images, in pixels."""

TOP = 1385
"""Height of the top of the page, down to the precision-recall curves, in pixels."""

SCALE, TOP_SCALE, COLORS = 0.7, 0.5, 256


def train(name: str) -> None:
    """Train a quick config for longer, unless its results exist."""
    if not Path(RUNS, name, "model_final.pth").exists():
        config = ROOT / "configs/shapes/quick" / f"{name}.py"
        args = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(config)]
        overrides = ["train.epochs=6.4", f"train.output_dir={RUNS}/{name}"]
        subprocess.run([*args, *overrides], check=True)


def write_report() -> None:
    """Compare the two runs."""
    args = ["--ground-truth", "datasets/shapes/annotations/instances_val.json"]
    for flag, file in (("results", "coco_instances_results.json"), ("metrics", "metrics.json")):
        args += [
            f"--{flag}",
            *(f"{name}={RUNS}/{run}/{file}" for name, run in METHODS.items()),
        ]
    args += ["--images", "datasets/shapes/val", "--output", REPORT]
    subprocess.run([sys.executable, "-m", "ranking_det.analysis", "report", *args], check=True)


def take_picture(page: str, height: int) -> Image.Image:
    """Open a page in Chromium and return the picture of its window."""
    with tempfile.TemporaryDirectory() as folder:
        path, picture = Path(folder, "page.html"), Path(folder, "page.png")
        path.write_text(page)
        args = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        args += [
            f"--user-data-dir={folder}/profile",
            "--blink-settings=preferredColorScheme=1",
        ]
        args += [f"--window-size={WIDTH},{height}", f"--screenshot={picture}"]
        subprocess.run([*args, path.as_uri()], check=True, capture_output=True)
        return Image.open(io.BytesIO(picture.read_bytes())).convert("RGB")


def save(picture: Image.Image, scale: float, name: str) -> None:
    """Write a picture, smaller and with fewer colors, to ``benchmarks/results``."""
    size = round(scale * picture.width), round(scale * picture.height)
    small = picture.resize(size, Image.Resampling.LANCZOS)
    small.quantize(COLORS).save(ROOT / "benchmarks" / "results" / name, optimize=True)


def draw_pictures() -> None:
    """Write the pictures: the top of the page with its first image, and the top alone."""
    page = Path(REPORT, "report.html").read_text()
    images = page[: page.index("<h1>")] + page[page.index('<h2 id="images">') :]
    parts = [
        take_picture(text, height) for text, height in zip((page, images), HEIGHTS, strict=True)
    ]
    picture = Image.new("RGB", (WIDTH, sum(part.height for part in parts)))
    top = 0
    for part in parts:
        picture.paste(part, (0, top))
        top += part.height
    save(picture, SCALE, "detection_report.png")
    save(picture.crop((0, 0, WIDTH, TOP)), TOP_SCALE, "detection_report_top.png")


def main() -> None:
    """Train, write the report, and write its pictures to ``benchmarks/results``."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    if shutil.which("chromium") is None:
        sys.exit("chromium is not installed")
    for name in METHODS.values():
        train(name)
    write_report()
    draw_pictures()


if __name__ == "__main__":
    main()
