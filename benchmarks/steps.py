#!/usr/bin/env python
"""Training steps of the ranking criteria beside focal loss: ``python -m benchmarks.steps``.

One model, one batch of the shapes, and the criteria take turns; a step is forward and backward.
Writes ``benchmarks/results/steps_<device>.json``.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.utils.events import EventStorage

from benchmarks.machine import describe_machine
from ranking_det.data.register import prepare_registered

ROOT = Path(__file__).parents[1]
CRITERIA = {
    "focal": "retinanet_atss_focal",
    "rank_sort": "retinanet_atss_rs",
    "ap": "retinanet_atss_ap",
    "alrp": "retinanet_atss_alrp",
    "ape": "retinanet_atss_ape",
}


LIMITED, LIMIT = ("rank_sort", "ap", "alrp"), 1.05


def verdict(ratio: float) -> str:
    """Whether a ratio keeps the limit."""
    return "ok" if ratio <= LIMIT else "MISSED"


def load(name: str) -> Any:
    """A quick config of the shapes."""
    return LazyConfig.load(str(ROOT / "configs" / "shapes" / "quick" / f"{name}.py"))


def main() -> None:
    """Time the steps in turns and keep the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    rounds = parser.parse_args().rounds
    cfg = load(CRITERIA["focal"])
    prepare_registered([cfg.dataloader.train.dataset.names])
    device = cfg.train.device
    torch.manual_seed(0)
    model = instantiate(cfg.model).to(device).train()
    batch = next(iter(instantiate(cfg.dataloader.train)))
    criteria = {
        name: instantiate(load(config).model.criterion).to(device)
        for name, config in CRITERIA.items()
    }
    order = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in criteria}
    # Two rounds to warm up.
    for turn in range(rounds + 2):
        # Another order each time: what came before leaves its memory behind.
        for name in order.sample(sorted(criteria), len(criteria)):
            taken = step(model, criteria[name], batch)
            if turn > 1:
                seconds[name].append(taken)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    ratios = {name: medians[name] / medians["focal"] for name in criteria}
    for name in criteria:
        limit = "" if name not in LIMITED else f" (limit {LIMIT} {verdict(ratios[name])})"
        print(f"{name:<10} {medians[name] * 1e3:7.1f} ms  {ratios[name]:.3f} x focal loss{limit}")
    report = {
        "machine": describe_machine(device),
        "config": f"configs/shapes/quick/{CRITERIA['focal']}.py",
        "images": len(batch),
        "rounds": rounds,
        "seconds": medians,
        "ratios": ratios,
    }
    path = Path(__file__).parent / "results" / f"steps_{device}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")


def step(model: torch.nn.Module, criterion: torch.nn.Module, batch: list[dict[str, Any]]) -> float:
    """Time one forward and backward."""
    model.criterion = criterion
    model.zero_grad()
    _wait(model)
    start = time.perf_counter()
    with EventStorage(0):
        sum(model(batch).values()).backward()
    _wait(model)
    return time.perf_counter() - start


def _wait(model: torch.nn.Module) -> None:
    if next(model.parameters()).is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
