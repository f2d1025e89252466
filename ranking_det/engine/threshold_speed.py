"""Measure how the score threshold changes the speed of a detector."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from detectron2.evaluation import inference_context
from torch import nn

from ranking_det.modeling.threshold_watch import THRESHOLD_KEYS
from ranking_det.user_errors import UserError

NAMES = [key.rpartition(".")[2] for key in THRESHOLD_KEYS]
"""Names of the attribute that holds the score threshold, here and in Detectron2."""


def time_thresholds(
    model: nn.Module, batches: Iterable[Sequence[Any]], thresholds: Sequence[float], count: int
) -> tuple[list[float], int]:
    """Measure the milliseconds that a detector takes for an image at each score threshold.

    The model processes each image at all thresholds, one after the other, so that other load on the
    machine affects all of them alike. The time for reading the image does not count.

    Args:
        model: a detector in Detectron2's format, on its device. Its thresholds are restored.
        batches: batches of inputs, such as a test loader.
        thresholds: score thresholds.
        count: maximum number of batches, >= 1.

    Returns:
        The mean time of an image at each threshold, and the number of images.

    Raises:
        UserError: no part of the model has a score threshold, or there are no images.
    """
    parts = [(module, name) for module in model.modules() for name in NAMES if name in vars(module)]
    if not parts:
        raise UserError(f"model: expected a part with a {' or '.join(NAMES)}, got none")
    original_thresholds = [vars(module)[name] for module, name in parts]
    times, num_images = [0.0] * len(thresholds), 0
    try:
        with inference_context(model), torch.no_grad():
            for inputs in islice(batches, count):
                if not num_images:
                    model(inputs)  # the first call is slow
                num_images += len(inputs)
                for i, threshold in enumerate(thresholds):
                    for module, name in parts:
                        setattr(module, name, threshold)
                    times[i] += _seconds(model, inputs)
    finally:
        for (module, name), value in zip(parts, original_thresholds, strict=True):
            setattr(module, name, value)
    if not num_images:
        raise UserError("dataloader.test: expected images to time the model on, got none")
    return [1000 * seconds / num_images for seconds in times], num_images


def _seconds(model: nn.Module, inputs: Sequence[Any]) -> float:
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    model(inputs)
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start
