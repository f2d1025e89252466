#!/usr/bin/env python
"""Time of the assigners, and of the Gaussian mixtures of PAA beside scikit-learn's, on the CPU.

From the root of the repository: ``python -m benchmarks.assigners``. The batch is 8 images of 800 x
1333 with 60 objects, and one anchor per location of 5 levels. The mixtures are fitted to what PAA
and its normalised form make of random predictions. All that is compared takes turns, so that a busy
machine slows all of it. Writes ``benchmarks/results/assigners_cpu.json``.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from benchmarks.machine import describe_machine
from ranking_det.assigners import ATSS, FCOS, PAA, Assigner, MaxIoU, NormalizedPAA, Predictions
from ranking_det.assigners import cost_mixture as module
from ranking_det.assigners.gaussian_mixture import classify, fit_two_gaussians

RESULT = Path(__file__).parent / "results" / "assigners_cpu.json"
HEIGHT, WIDTH, CLASSES = 800, 1333, 80
OBJECTS = (3, 14, 7, 1, 11, 5, 16, 3)  # per image; 7.3 is COCO's mean
ASSIGNERS: dict[str, type[Assigner]] = {
    "MaxIoU": MaxIoU,
    "FCOS": FCOS,
    "ATSS": ATSS,
    "PAA": PAA,
    "NormalizedPAA": NormalizedPAA,
}
ROUNDS = 7
LIMIT = 10.0  # how many times faster than scikit-learn the mixtures are to be

Scene = tuple[list[Tensor], list[Tensor], list[Tensor], Tensor, Predictions]


def scene() -> Scene:
    """Anchors, objects of all sizes, and predictions around the anchors."""
    torch.manual_seed(0)
    anchors = []
    for stride in (8, 16, 32, 64, 128):
        y = (torch.arange(-(-HEIGHT // stride)) + 0.5) * stride
        x = (torch.arange(-(-WIDTH // stride)) + 0.5) * stride
        centers = torch.cartesian_prod(y, x).flip(1)
        anchors.append(torch.cat([centers - 4 * stride, centers + 4 * stride], dim=1))
    boxes, classes = [], []
    for count in OBJECTS:
        # Sides from 16 to 600 px, as many small as large ones.
        side = 16 * (600 / 16) ** torch.rand(count, 1) * torch.empty(count, 2).uniform_(0.7, 1.3)
        corner = torch.rand(count, 2) * (torch.tensor([WIDTH, HEIGHT]) - side).clamp(min=0)
        boxes.append(torch.cat([corner, corner + side], dim=1))
        classes.append(torch.randint(0, CLASSES, (count,)))
    rows = len(OBJECTS) * sum(map(len, anchors))
    every = torch.cat(anchors).repeat(len(OBJECTS), 1)
    shift = torch.randn(rows, 4) * (every[:, 2:3] - every[:, :1]) * 0.1
    logits = torch.randn(rows, CLASSES) - 4
    return anchors, boxes, classes, torch.ones(rows) > 0, Predictions(logits, every + shift)


def samples(assigner: Assigner, inputs: Scene) -> tuple[Tensor, Tensor]:
    """The costs that an assigner fits its mixtures to."""
    with mock.patch.object(module, "fit_two_gaussians", wraps=fit_two_gaussians) as fit:
        assigner(*inputs)
    values, exists = fit.call_args.args
    return values, exists


def batched(values: Tensor, exists: Tensor) -> list[list[int]]:
    """Components by one fit of all objects."""
    labels, _ = classify(values, fit_two_gaussians(values, exists))
    return [row[own].tolist() for row, own in zip(labels, exists, strict=True)]


def one_by_one(values: Tensor, exists: Tensor) -> list[list[int]]:
    """Components by scikit-learn, object by object."""
    result = []
    for row, own in zip(values, exists, strict=True):
        column = row[own][:, None].numpy()
        mixture = GaussianMixture(
            2,
            weights_init=[0.5, 0.5],
            means_init=[[column.min()], [column.max()]],
            precisions_init=[[[1.0]], [[1.0]]],
        )
        result.append(mixture.fit_predict(column).tolist())
    return result


def in_turns(functions: Sequence[Callable[[], object]], rounds: int = ROUNDS) -> list[float]:
    """Median time of each, after one round to warm up."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(rounds + 1):
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            if turn:
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def mixtures(inputs: Scene) -> dict[str, Any]:
    """Time of the batched fit beside scikit-learn's, and whether they agree."""
    rows = {}
    for name in ("PAA", "NormalizedPAA"):
        values, exists = samples(ASSIGNERS[name](), inputs)
        several = exists.sum(dim=1) > 1  # scikit-learn refuses a single sample
        values, exists = values[several], exists[several]
        ours, known = batched(values, exists), one_by_one(values, exists)
        times = in_turns(
            [lambda v=values, e=exists: batched(v, e), lambda v=values, e=exists: one_by_one(v, e)]
        )
        rows[name] = {
            "objects": len(values),
            "samples": int(exists.sum()),
            "seconds": {"batched": times[0], "scikit-learn": times[1]},
            "times_faster": times[1] / times[0],
            "same_components": ours == known,
        }
        verdict = "ok" if times[1] / times[0] >= LIMIT else "MISSED"
        print(
            f"{name:<14} {len(values)} mixtures: {times[0] * 1e3:6.1f} ms, scikit-learn "
            f"{times[1] * 1e3:7.1f} ms: {times[1] / times[0]:.1f} times faster (limit {LIMIT:g} "
            f"{verdict}), components {'agree' if ours == known else 'DIFFER'}",
            flush=True,
        )
    return rows


def main() -> None:
    """Run everything and keep it."""
    inputs = scene()
    report: dict[str, Any] = {
        "machine": describe_machine("cpu"),
        "images": len(OBJECTS),
        "objects": sum(OBJECTS),
        "anchors_per_image": sum(map(len, inputs[0])),
        "mixtures": mixtures(inputs),
    }
    assigners = {name: make() for name, make in ASSIGNERS.items()}
    functions = [lambda a=a: a(*inputs) for a in assigners.values()]
    report["seconds"] = dict(zip(assigners, in_turns(functions), strict=True))
    report["positives"] = {
        name: int((a(*inputs).labels >= 0).sum()) for name, a in assigners.items()
    }
    for name, seconds in report["seconds"].items():
        print(f"{name:<14} {seconds * 1e3:6.1f} ms, {report['positives'][name]} positives")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
