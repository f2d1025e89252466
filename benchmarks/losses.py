#!/usr/bin/env python
"""Benchmark time and memory of the ranking losses against focal loss, on the CPU or a GPU.

From the root of the repository: ``python -m benchmarks.losses``. Prints a table of ratios, and
writes ``benchmarks/results/losses_<device>.json`` and, next to it, ``losses.png``. The losses of a
row are interleaved, so a busy machine slows all of them. ``--quick`` skips the parts that take
minutes. ``--annotations`` adds batches with as many positives as ATSS selects in the images of a
COCO file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.loss_problems import STAGES, Problem, compare, measure
from benchmarks.machine import describe_machine
from ranking_det.assigners import ATSS, ImageInputs

RESULTS = Path(__file__).parent / "results"
RANKING = ["rank_sort", "ap", "alrp"]
# Each row: positives, logits, the losses, and the number of rounds.
TABLE = [
    (1000, 1_000_000, ["focal", *RANKING], 11),
    (3000, 1_000_000, ["focal", "rank_sort"], 11),
    (500, 20_000_000, ["focal", *RANKING], 3),
    (1000, 1_000_000, ["rank_sort", "ap", "alrp", "rank_sort_loop"], 1),
    (1000, 101_000, ["ape", "ape_loop"], 1),
]
LIMITS = {
    (1000, 1_000_000): {"rank_sort": 2.0, "ap": 1.5, "alrp": 1.5},
    (3000, 1_000_000): {"rank_sort": 4.0},
    (500, 20_000_000): {"rank_sort": 0.8, "ap": 0.8, "alrp": 0.8},
}
# Minimum speed-up over the loop, at the initial and the middle stage.
MIN_SPEEDUP = {"rank_sort_loop": (10, 10), "ape_loop": (1.5, 6)}
SCALING_IN_LOGITS = [(500, 10**exponent) for exponent in (5, 6, 7)] + [(500, 20_000_000)]
SCALING_IN_POSITIVES = [(positives, 1_000_000) for positives in (10, 100, 1000, 3000, 10_000)]
LARGEST = (1000, 240_000_000)


def in_fresh_process(*arguments: object) -> dict[str, float]:
    """Run ``measure`` in a new process, so that nothing else raises its peak memory."""
    command = [sys.executable, "-m", "benchmarks.losses", "--measure", *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def table(device: str) -> list[dict[str, Any]]:
    """Time every row of the table at every stage of training and print the ratios."""
    rows = []
    for positives, logits, names, rounds in TABLE:
        for stage in STAGES:
            if "loop" in names[-1] and stage == "late":
                continue
            problem = Problem(stage, positives, logits, device)
            times = compare(problem, names, device, rounds)
            base = "focal" if "focal" in names else names[-1]
            ratios = {name: times[name] / times[base] for name in names if name != base}
            rows.append(
                {"positives": positives, "logits": logits, "stage": stage, "base": base}
                | {"seconds": times, "ratios": ratios}
            )
            print_row(rows[-1])
    return rows


def print_row(row: dict[str, Any]) -> None:
    """Print one line: ratios to focal loss with their limits, or speed-ups over a loop."""
    cells, limits = [], LIMITS.get((row["positives"], row["logits"]), {})
    for name, ratio in row["ratios"].items():
        if row["base"] != "focal":
            min_speedup = MIN_SPEEDUP[row["base"]][row["stage"] == "mid"]
            verdict = "ok" if 1 / ratio >= min_speedup else "MISSED"
            cells.append(f"{name} {1 / ratio:.1f}x faster (required {min_speedup:g}x: {verdict})")
        elif name in limits and row["stage"] != "late":
            verdict = "ok" if ratio <= limits[name] else "MISSED"
            cells.append(f"{name} {ratio:.2f} (limit {limits[name]:g}: {verdict})")
        else:
            cells.append(f"{name} {ratio:.2f}")
    base = f"{row['base']} {row['seconds'][row['base']] * 1e3:.1f} ms"
    head = f"P {row['positives']:>6,}  M {row['logits']:>11,}  {row['stage']:<5}"
    print(f"{head} {base:>22}:  " + ",  ".join(cells), flush=True)


def scaling(cases: list[tuple[int, int]], device: str) -> list[dict[str, Any]]:
    """Time the losses, interleaved, at the middle stage, and measure the peak memory of each."""
    rows = []
    for positives, logits in cases:
        names = ["focal", *RANKING]
        problem = Problem("mid", positives, logits, device)
        times = compare(problem, names, device, rounds=3 if logits >= 10**7 else 9)
        del problem
        memory = {
            name: in_fresh_process("mid", positives, logits, name, device)["extra"]
            for name in names
        }
        rows.append(
            {"positives": positives, "logits": logits, "stage": "mid", "base": "focal"}
            | {"seconds": times, "ratios": {name: times[name] / times["focal"] for name in RANKING}}
            | {"extra_bytes": memory, "logit_bytes": 4 * logits}
        )
        print_row(rows[-1])
        peaks = ", ".join(f"{name} {size / (4 * logits):.1f}" for name, size in memory.items())
        print(f"  peak extra memory / logit memory: {peaks}", flush=True)
    return rows


def largest(device: str) -> dict[str, Any]:
    """Measure Rank & Sort Loss on an LVIS batch: 1,203 classes and 200,000 anchors."""
    figures = in_fresh_process("mid", *LARGEST, "rank_sort", device)
    print(
        f"P {LARGEST[0]:>6,}  M {LARGEST[1]:>11,}  rank_sort {figures['seconds']:.1f} s, "
        f"{figures['resident'] / 1e9:.1f} GB resident (limit 8: "
        f"{'ok' if figures['resident'] <= 8e9 else 'MISSED'})"
    )
    return {"positives": LARGEST[0], "logits": LARGEST[1]} | figures


def count_positives(path: Path, images_per_batch: int = 4) -> tuple[list[int], int]:
    """Count ATSS positives in the images of a COCO file, with 3 anchors per cell.

    Returns:
        The number of positives of each batch, and the number of anchors per image.
    """
    data = json.loads(path.read_text())
    height, width = 800, 1333
    anchors = []
    for stride in (8, 16, 32, 64, 128):
        y = (torch.arange(-(-height // stride)) + 0.5) * stride
        x = (torch.arange(-(-width // stride)) + 0.5) * stride
        centers = torch.cartesian_prod(y, x).flip(1).repeat_interleave(3, 0)
        sides = stride * 4 * torch.tensor([1, 2 ** (1 / 3), 2 ** (2 / 3)]).repeat(len(y) * len(x))
        half_sides = sides[:, None] / 2
        anchors.append(torch.cat([centers - half_sides, centers + half_sides], dim=1))
    boxes = []
    for image in data["images"]:
        scale = min(height / min(image["height"], image["width"]),
                    width / max(image["height"], image["width"]))  # fmt: skip
        bboxes = [a["bbox"] for a in data["annotations"]
                  if a["image_id"] == image["id"] and not a.get("iscrowd")]  # fmt: skip
        xywh = torch.tensor(bboxes, dtype=torch.float32).reshape(-1, 4) * scale
        boxes.append(torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1))
    valid = torch.ones(sum(map(len, anchors)), dtype=torch.bool)
    counts = []
    for gt_boxes in boxes:
        classes = torch.zeros(len(gt_boxes), dtype=torch.int64)
        matched = ATSS().match(ImageInputs(anchors, gt_boxes, classes, valid))
        counts.append(int((matched >= 0).sum()))
    size = images_per_batch
    batches = [sum(counts[start : start + size]) for start in range(0, len(counts), size)]
    return batches, len(valid)


def coco_batches(path: Path, device: str) -> list[dict[str, Any]]:
    """Time the losses on the COCO batches (4 images) with the smallest, median and largest P."""
    positives, per_image = count_positives(path)
    positives.sort()
    rows = []
    for count in (positives[0], positives[len(positives) // 2], positives[-1]):
        problem = Problem("mid", max(count, 1), 4 * per_image * 80, device)
        times = compare(problem, ["focal", *RANKING], device, 3)
        ratios = {name: times[name] / times["focal"] for name in RANKING}
        rows.append(
            {"positives": count, "logits": len(problem.logits), "stage": "mid", "base": "focal"}
            | {"seconds": times, "ratios": ratios}
        )
        print_row(rows[-1])
    return rows


def draw(report: dict[str, Any], path: Path) -> None:
    """Plot time relative to focal loss, and peak memory, against M and P."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullLocator

    names = {"focal": "focal", "rank_sort": "Rank & Sort", "ap": "AP", "alrp": "aLRP"}
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6.5), layout="constrained")
    for column, (key, axis, subtitle) in enumerate(
        [
            ("logits", "logits M", "500 positives"),
            ("positives", "positives P", "1,000,000 logits"),
        ]
    ):
        rows = report[f"growth_in_{key}"]
        x = [row[key] for row in rows]
        for name, label in names.items():
            ratios = [row["seconds"][name] / row["seconds"]["focal"] for row in rows]
            axes[0, column].plot(x, ratios, "o-", label=label)
            sizes = [row["extra_bytes"][name] / 2**20 for row in rows]
            axes[1, column].plot(x, sizes, "o-", label=label)
        axes[0, column].set(ylabel="time, focal loss = 1")
        axes[1, column].set(ylabel="peak extra memory, MiB")
        for panel in axes[:, column]:
            panel.set(xscale="log", yscale="log", xlabel=axis)
            panel.set_title(subtitle, fontsize=10)
            panel.grid(alpha=0.3)
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_locator(NullLocator())
    axes[0, 0].legend()
    machine = report["machine"]
    title = f"Forward and backward, {machine['device']}, {machine['threads']} threads"
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run the benchmark and write its report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--quick", action="store_true", help="skip the scaling measurements and M = 240e6"
    )
    parser.add_argument("--annotations", type=Path, help="COCO JSON with ground-truth boxes")
    parser.add_argument(
        "--scaling-only",
        action="store_true",
        help="rerun only the scaling measurements and update the existing report",
    )
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        stage, positives, logits, name, device = arguments.measure
        print(json.dumps(measure(stage, int(positives), int(logits), name, device)))
        return
    device = arguments.device
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"losses_{device}.json"
    report: dict[str, Any] = {"machine": describe_machine(device)}
    if arguments.scaling_only:
        report = json.loads(path.read_text())
    else:
        report["table"] = table(device)

    def save() -> None:
        path.write_text(json.dumps(report, indent=2) + "\n")

    save()
    if arguments.annotations:
        report["real"] = coco_batches(arguments.annotations, device)
        save()
    if not arguments.quick:
        report["growth_in_logits"] = scaling(SCALING_IN_LOGITS, device)
        report["growth_in_positives"] = scaling(SCALING_IN_POSITIVES, device)
        draw(report, RESULTS / ("losses.png" if device == "cpu" else f"losses_{device}.png"))
        save()
        report["largest"] = largest(device)
        save()


if __name__ == "__main__":
    main()
