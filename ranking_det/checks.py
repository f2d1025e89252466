"""Checks of arguments: plain ones, and tensors' shapes, dtypes, devices and values.

Every check raises ValueError, which names the argument, what was expected and what came. Values of
tensors are looked at on the CPU only: on a GPU the host would wait for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ranking_det.labels import BACKGROUND, IGNORE


def describe(value: object) -> str:
    """What came, in the words of an error message."""
    if not isinstance(value, Tensor):
        return repr(value)
    return f"{value.dtype} of shape {tuple(value.shape)} on {value.device}"


def check_that(is_right: bool, name: str, expected: str, value: object) -> None:
    """Raise, with the name of the argument and what was expected of it, unless ``is_right``."""
    if not is_right:
        raise ValueError(f"{name}: expected {expected}, got {describe(value)}")


def looks_at_values(tensor: Tensor) -> bool:
    """Whether the values of ``tensor`` are checked."""
    return tensor.device.type == "cpu"


def check_at_least(name: str, value: float, low: float, *, strictly: bool = False) -> None:
    """Raise unless ``value`` is a finite number of at least ``low``."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (value > low if strictly else value >= low) or value == float("inf"):
        relation = "above" if strictly else "of at least"
        raise ValueError(f"{name}: expected a finite number {relation} {low:g}, got {value!r}")


def check_integer(name: str, value: int, low: int) -> None:
    """Raise unless ``value`` is an integer of at least ``low``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name}: expected an integer of at least {low}, got {value!r}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def check_entries(
    name: str, value: Tensor, like: Tensor, of: str, *, integer: bool = False
) -> None:
    """Raise unless ``value`` has an int64, or else a float, for each entry of ``like``."""
    tensor = isinstance(value, Tensor) and value.shape == like.shape[:1]
    right = tensor and (value.dtype == torch.int64 if integer else value.is_floating_point())
    if not right or value.device != like.device:
        raise ValueError(
            f"{name}: expected {'int64' if integer else 'a float'} of shape ({len(like)},) on "
            f"{like.device}, one entry per {of}, got {describe(value)}"
        )


def check_vector(name: str, value: Tensor, *, like: Tensor | None = None) -> None:
    """Raise unless ``value`` is a one-dimensional float tensor, on the device of ``like``."""
    if not isinstance(value, Tensor) or value.dim() != 1 or not value.is_floating_point():
        raise ValueError(f"{name}: expected a float tensor of one dimension, got {describe(value)}")
    if like is not None and value.device != like.device:
        raise ValueError(f"{name}: expected a tensor on {like.device}, got {describe(value)}")


def check_per_positive(
    name: str, value: Tensor, positives: Tensor, low: float = 0.0, high: float = 1.0
) -> None:
    """Raise unless ``value`` holds a float in [low, high] for each positive."""
    check_entries(name, value, positives, "positive")
    if not looks_at_values(value) or len(value) == 0:
        return
    # NaN fails both comparisons and must be refused, hence the negation.
    if not bool(((value >= low) & (value <= high)).all()):
        raise ValueError(
            f"{name}: expected values in [{low:g}, {high:g}], "
            f"got {float(value.min()):g} to {float(value.max()):g}"
        )


def check_ranking(
    logits: Tensor, positives: Tensor, delta: float = 0.0, *, quality: Tensor | None = None
) -> None:
    """Raise unless these are logits, unique indices of positives, a half-width and a quality."""
    check_vector("logits", logits)
    check_at_least("delta", delta, 0.0)
    if (
        not isinstance(positives, Tensor)
        or positives.dim() != 1
        or positives.dtype != torch.int64
        or positives.device != logits.device
    ):
        raise ValueError(
            "positives: expected int64 indices of one dimension on "
            f"{logits.device}, got {describe(positives)}"
        )
    if quality is not None:
        check_per_positive("quality", quality, positives)
    if not looks_at_values(positives) or len(positives) == 0:
        return
    low, high = int(positives.min()), int(positives.max())
    if low < 0 or high >= len(logits):
        raise ValueError(f"positives: expected indices in [0, {len(logits)}), got {low} to {high}")
    if len(torch.unique(positives)) != len(positives):
        raise ValueError(
            f"positives: expected unique indices, got {len(positives)} of which "
            f"{len(torch.unique(positives))} differ"
        )


def check_labels(name: str, scores: Tensor, labels: Tensor) -> None:
    """Raise unless ``scores`` is (R, K) float and ``labels`` (R,) int64 within the K classes."""
    if not isinstance(scores, Tensor) or scores.dim() != 2 or not scores.is_floating_point():
        raise ValueError(f"{name}: expected a float tensor (R, K), got {describe(scores)}")
    rows, classes = scores.shape
    if (
        not isinstance(labels, Tensor)
        or labels.shape != (rows,)
        or labels.dtype != torch.int64
        or labels.device != scores.device
    ):
        raise ValueError(
            f"labels: expected int64 of shape ({rows},) on {scores.device}, got {describe(labels)}"
        )
    if not looks_at_values(labels) or rows == 0:
        return
    low, high = int(labels.min()), int(labels.max())
    if low < IGNORE or high >= classes:
        raise ValueError(
            f"labels: expected a class below {classes}, {BACKGROUND} (background) or {IGNORE} "
            f"(ignored), got {low} to {high}"
        )


def check_masks(logits: Tensor, masks: Tensor) -> None:
    """Raise unless both are masks (Q, h, w)."""
    if logits.dim() != 3 or masks.shape != logits.shape:
        raise ValueError(
            f"masks: expected masks of the shape of logits, (Q, h, w), got {describe(masks)} for "
            f"{describe(logits)}"
        )


def check_detections(boxes: Tensor, scores: Tensor, classes: Tensor) -> None:
    """Raise unless these are boxes (n, 4), scores (n,) and integer classes (n,)."""
    if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ValueError(f"boxes: expected a float tensor (n, 4), got {describe(boxes)}")
    for name, value, floating in (("scores", scores, True), ("classes", classes, False)):
        if value.shape != boxes.shape[:1] or value.is_floating_point() != floating:
            kind = "a float" if floating else "an integer"
            raise ValueError(
                f"{name}: expected {kind} tensor ({len(boxes)},), one entry per box, got "
                f"{describe(value)}"
            )
        if value.device != boxes.device:
            raise ValueError(f"{name}: expected a tensor on {boxes.device}, got {describe(value)}")
