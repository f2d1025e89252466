#!/usr/bin/env python
"""Benchmark training steps with ranking criteria against focal loss.

From the root of the repository: ``python -m benchmarks.steps``. One model trains on one batch of
the shapes data set, and the steps of the criteria are interleaved. A step is a forward and a
backward pass. Mask R-CNN is also measured, with Rank & Sort Loss and with cross entropy, on the
same weights and the same RoIs: all proposals, and the masks of all positives. YOLACT and SOLOv2 are
measured with Rank & Sort Loss and with their baselines, on the same weights (YOLACT's cross entropy
also has a semantic segmentation loss), together with the bytes that autograd saves for the
backward pass. Writes ``benchmarks/results/steps_<device>.json``.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.utils.events import EventStorage

from benchmarks.config_memory import saved_bytes
from benchmarks.detectron2_rcnn import ALL, detectron2_rcnn
from benchmarks.machine import describe_machine
from ranking_det.data.catalog import prepare_registered

ROOT = Path(__file__).parents[1]
CRITERIA = {
    "focal": "retinanet_atss_focal",
    "rank_sort": "retinanet_atss_rs",
    "ap": "retinanet_atss_ap",
    "alrp": "retinanet_atss_alrp",
    "ape": "retinanet_atss_ape",
}
RCNNS = {"detectron2": "mask_ce", "cross_entropy": "mask_ce", "rank_sort": "mask_rs"}
YOLACTS = {"cross_entropy": "yolact_ce", "rank_sort": "yolact_rs"}

SOLOV2 = {"focal": "solov2_focal", "rank_sort": "solov2_rs"}

RANKING, LIMIT, MASKS_LIMIT = ("rank_sort", "ap", "alrp"), 1.05, 1.1


def verdict(ratio: float, limit: float) -> str:
    """Return "ok" if a ratio is within the limit, otherwise "MISSED"."""
    return "ok" if ratio <= limit else "MISSED"


def load(name: str) -> Any:
    """Load a config of ``configs/shapes/quick``."""
    return LazyConfig.load(str(ROOT / "configs" / "shapes" / "quick" / f"{name}.py"))


def main() -> None:
    """Time the steps, interleaved, and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    rounds = parser.parse_args().rounds
    cfg = load(CRITERIA["focal"])
    prepare_registered([cfg.dataloader.train.dataset.names])
    device = cfg.train.device
    report = {
        "machine": describe_machine(device),
        **time_criteria(device, rounds),
        "rcnn": time_rcnns(device, rounds),
        "yolact": time_masks(YOLACTS, "cross_entropy", device, rounds),
        "solov2": time_masks(SOLOV2, "focal", device, rounds),
    }
    path = Path(__file__).parent / "results" / f"steps_{device}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")


def time_criteria(device: str, rounds: int) -> dict[str, Any]:
    """Time a dense detector's step with each criterion."""
    cfg = load(CRITERIA["focal"])
    torch.manual_seed(0)
    model = instantiate(cfg.model).to(device).train()
    batch = next(iter(instantiate(cfg.dataloader.train)))
    criteria = {
        name: instantiate(load(config).model.criterion).to(device)
        for name, config in CRITERIA.items()
    }

    def run(name: str) -> float:
        model.criterion = criteria[name]
        return step(model, batch)

    medians = time_interleaved(criteria, run, rounds)
    return summary(CRITERIA, medians, "focal", batch, rounds, dict.fromkeys(RANKING, LIMIT))


def time_rcnns(device: str, rounds: int) -> dict[str, Any]:
    """Time Mask R-CNN's step with each loss, and with Detectron2's RPN and RoI heads."""
    batch = next(iter(instantiate(load(RCNNS["rank_sort"]).dataloader.train)))
    models: dict[str, torch.nn.Module] = {}
    for name, config in RCNNS.items():
        node = without_sampling(load(config).model)
        if name == "detectron2":
            node = detectron2_rcnn(node)
        models[name] = instantiate(node).to(device).train()
        share_weights(models["detectron2"], models[name])
    medians = time_interleaved(models, lambda name: step(models[name], batch), rounds)
    limits = {"rank_sort": MASKS_LIMIT}
    return summary(RCNNS, medians, "cross_entropy", batch, rounds, limits)


def time_masks(
    configs: Mapping[str, str], baseline: str, device: str, rounds: int
) -> dict[str, Any]:
    """Time the step of a one-stage detector of masks with each loss, and count the saved bytes."""
    batch = next(iter(instantiate(load(configs["rank_sort"]).dataloader.train)))
    models = {
        name: instantiate(load(config).model).to(device).train() for name, config in configs.items()
    }
    share_weights(models[baseline], models["rank_sort"])
    saved = {}
    for name, model in models.items():
        with EventStorage(0):
            saved[name] = saved_bytes(partial(model, batch), model.state_dict().values())
    ratio = saved["rank_sort"] / saved[baseline]
    result = verdict(ratio, MASKS_LIMIT)
    print(f"saved bytes   {ratio:.3f} x {baseline} (limit {MASKS_LIMIT}: {result})")
    medians = time_interleaved(models, lambda name: step(models[name], batch), rounds)
    limits = {"rank_sort": MASKS_LIMIT}
    return summary(configs, medians, baseline, batch, rounds, limits) | {"saved_bytes": saved}


def without_sampling(model: Any) -> Any:
    """Make an R-CNN's config train on all anchors, all proposals and the masks of all positives."""
    model.proposal_generator.sampler = None
    model.roi_heads.sampler = None
    model.roi_heads.max_mask_rois = ALL
    return model


def share_weights(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Copy the weights with the same name and shape, so both models have the same proposals."""
    state = target.state_dict()
    shared = {
        k: v for k, v in source.state_dict().items() if k in state and state[k].shape == v.shape
    }
    target.load_state_dict(shared, strict=False)


def time_interleaved(
    names: Iterable[str], run: Callable[[str], float], rounds: int
) -> dict[str, float]:
    """Measure the median seconds of each name, in a new random order each round.

    The order is random because the memory that a step leaves allocated affects the time of the
    next.
    """
    order = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    # Two rounds to warm up.
    for round_index in range(rounds + 2):
        for name in order.sample(sorted(seconds), len(seconds)):
            elapsed = run(name)
            if round_index > 1:
                seconds[name].append(elapsed)
    return {name: statistics.median(durations) for name, durations in seconds.items()}


def summary(
    configs: dict[str, str],
    medians: dict[str, float],
    base: str,
    batch: list[Any],
    rounds: int,
    limits: dict[str, float],
) -> dict[str, Any]:
    """Print the ratios to the base and return the report."""
    ratios = {name: medians[name] / medians[base] for name in medians}
    for name, ratio in ratios.items():
        limit = limits.get(name)
        note = "" if limit is None else f" (limit {limit}: {verdict(ratio, limit)})"
        print(f"{name:<13} {medians[name] * 1e3:7.1f} ms  {ratio:.3f} x {base}{note}", flush=True)
    return {
        "config": f"configs/shapes/quick/{configs[base]}.py",
        "images": len(batch),
        "rounds": rounds,
        "seconds": medians,
        "ratios": ratios,
    }


def step(model: torch.nn.Module, batch: list[dict[str, Any]]) -> float:
    """Time one forward and backward pass, in seconds."""
    model.zero_grad()
    _synchronize(model)
    start = time.perf_counter()
    with EventStorage(0):
        sum(model(batch).values()).backward()
    _synchronize(model)
    return time.perf_counter() - start


def _synchronize(model: torch.nn.Module) -> None:
    if next(model.parameters()).is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
