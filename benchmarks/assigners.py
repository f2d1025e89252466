#!/usr/bin/env python
"""Benchmark the assigners on the CPU, and PAA's Gaussian mixtures against scikit-learn's.

From the root of the repository: ``python -m benchmarks.assigners``. The batch is 8 images of 800 x
1333 pixels with 60 objects, and one anchor per location of 5 levels. The mixtures are fitted to the
costs that PAA and its normalized form compute from random predictions. Calls of the compared
functions are interleaved, so a busy machine slows all of them. Writes
``benchmarks/results/assigners_cpu.json``.
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
from ranking_det.assigners import (
    ATSS,
    FCOS,
    PAA,
    Assigner,
    MaxIoU,
    NormalizedPAA,
    Predictions,
    cost_mixture,
)
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
LIMIT = 10.0  # required speed-up of the mixtures over scikit-learn

Scene = tuple[list[Tensor], list[Tensor], list[Tensor], Tensor, Predictions]


def make_scene() -> Scene:
    """Make anchors, objects of all sizes, and predictions around the anchors."""
    torch.manual_seed(0)
    anchors = []
    for stride in (8, 16, 32, 64, 128):
        y = (torch.arange(-(-HEIGHT // stride)) + 0.5) * stride
        x = (torch.arange(-(-WIDTH // stride)) + 0.5) * stride
        centers = torch.cartesian_prod(y, x).flip(1)
        anchors.append(torch.cat([centers - 4 * stride, centers + 4 * stride], dim=1))
    boxes, classes = [], []
    for count in OBJECTS:
        # Sides from about 16 to 600 px, log-uniform.
        side = 16 * (600 / 16) ** torch.rand(count, 1) * torch.empty(count, 2).uniform_(0.7, 1.3)
        corner = torch.rand(count, 2) * (torch.tensor([WIDTH, HEIGHT]) - side).clamp(min=0)
        boxes.append(torch.cat([corner, corner + side], dim=1))
        classes.append(torch.randint(0, CLASSES, (count,)))
    rows = len(OBJECTS) * sum(map(len, anchors))
    batch_anchors = torch.cat(anchors).repeat(len(OBJECTS), 1)
    shift = torch.randn(rows, 4) * (batch_anchors[:, 2:3] - batch_anchors[:, :1]) * 0.1
    logits = torch.randn(rows, CLASSES) - 4
    return anchors, boxes, classes, torch.ones(rows) > 0, Predictions(logits, batch_anchors + shift)


def mixture_samples(assigner: Assigner, inputs: Scene) -> tuple[Tensor, Tensor]:
    """Record the costs that an assigner fits its mixtures to."""
    with mock.patch.object(cost_mixture, "fit_two_gaussians", wraps=fit_two_gaussians) as fit:
        assigner(*inputs)
    values, exists = fit.call_args.args
    return values, exists


def batched(values: Tensor, exists: Tensor) -> list[list[int]]:
    """Find the component of each sample with one batched fit of all objects."""
    labels, _ = classify(values, fit_two_gaussians(values, exists))
    return [row[valid].tolist() for row, valid in zip(labels, exists, strict=True)]


def one_by_one(values: Tensor, exists: Tensor) -> list[list[int]]:
    """Find the component of each sample with scikit-learn, one fit per object."""
    result = []
    for row, valid in zip(values, exists, strict=True):
        column = row[valid][:, None].numpy()
        mixture = GaussianMixture(
            2,
            weights_init=[0.5, 0.5],
            means_init=[[column.min()], [column.max()]],
            precisions_init=[[[1.0]], [[1.0]]],
        )
        result.append(mixture.fit_predict(column).tolist())
    return result


def time_interleaved(
    functions: Sequence[Callable[[], object]], rounds: int = ROUNDS
) -> list[float]:
    """Measure the median seconds of each function, interleaved, after one warm-up round."""
    times: list[list[float]] = [[] for _ in functions]
    for round_index in range(rounds + 1):
        for function, durations in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            if round_index:
                durations.append(time.perf_counter() - start)
    return [statistics.median(durations) for durations in times]


def compare_mixtures(inputs: Scene) -> dict[str, Any]:
    """Time the batched fit against scikit-learn's, and compare their components."""
    rows = {}
    for name in ("PAA", "NormalizedPAA"):
        values, exists = mixture_samples(ASSIGNERS[name](), inputs)
        is_fitted = exists.sum(dim=1) > 1  # scikit-learn rejects a single sample
        values, exists = values[is_fitted], exists[is_fitted]
        components, reference = batched(values, exists), one_by_one(values, exists)
        times = time_interleaved(
            [lambda v=values, e=exists: batched(v, e), lambda v=values, e=exists: one_by_one(v, e)]
        )
        rows[name] = {
            "objects": len(values),
            "samples": int(exists.sum()),
            "seconds": {"batched": times[0], "scikit-learn": times[1]},
            "times_faster": times[1] / times[0],
            "same_components": components == reference,
        }
        verdict = "ok" if times[1] / times[0] >= LIMIT else "MISSED"
        print(
            f"{name:<14} {len(values)} mixtures: {times[0] * 1e3:6.1f} ms, scikit-learn "
            f"{times[1] * 1e3:7.1f} ms: {times[1] / times[0]:.1f}x faster (required {LIMIT:g}x: "
            f"{verdict}), components {'agree' if components == reference else 'DIFFER'}",
            flush=True,
        )
    return rows


def main() -> None:
    """Run the benchmark and write its report."""
    inputs = make_scene()
    report: dict[str, Any] = {
        "machine": describe_machine("cpu"),
        "images": len(OBJECTS),
        "objects": sum(OBJECTS),
        "anchors_per_image": sum(map(len, inputs[0])),
        "mixtures": compare_mixtures(inputs),
    }
    assigners = {name: make() for name, make in ASSIGNERS.items()}
    functions = [lambda a=a: a(*inputs) for a in assigners.values()]
    report["seconds"] = dict(zip(assigners, time_interleaved(functions), strict=True))
    report["positives"] = {
        name: int((a(*inputs).labels >= 0).sum()) for name, a in assigners.items()
    }
    for name, seconds in report["seconds"].items():
        print(f"{name:<14} {seconds * 1e3:6.1f} ms, {report['positives'][name]} positives")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
