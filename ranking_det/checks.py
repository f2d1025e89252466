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
    right = number and (value > low if strictly else value >= low) and value != float("inf")
    relation = "above" if strictly else "of at least"
    check_that(right, name, f"a finite number {relation} {low:g}", value)


def check_integer(name: str, value: int, low: int) -> None:
    """Raise unless ``value`` is an integer of at least ``low``."""
    right = isinstance(value, int) and not isinstance(value, bool) and value >= low
    check_that(right, name, f"an integer of at least {low}", value)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    check_that(value in choices, name, f"one of {', '.join(choices)}", value)


def check_entries(
    name: str, value: Tensor, like: Tensor, of: str, *, integer: bool = False
) -> None:
    """Raise unless ``value`` has an int64, or else a float, for each entry of ``like``."""
    right = _has_type(value, integer) and value.shape == like.shape[:1]
    kind = f"{'int64' if integer else 'a float'} of shape ({len(like)},) on {like.device}"
    check_that(right and value.device == like.device, name, f"{kind}, one entry per {of}", value)


def check_vector(
    name: str, value: Tensor, *, like: Tensor | None = None, integer: bool = False
) -> None:
    """Raise unless ``value`` is a float or int64 vector, on the device of ``like``."""
    kind = "int64 indices" if integer else "a float tensor"
    check_that(
        _has_type(value, integer) and value.dim() == 1, name, f"{kind} of one dimension", value
    )
    if like is not None:
        check_that(value.device == like.device, name, f"a tensor on {like.device}", value)


def _has_type(value: object, integer: bool) -> bool:
    if not isinstance(value, Tensor):
        return False
    return value.dtype == torch.int64 if integer else value.is_floating_point()


def check_per_positive(name: str, value: Tensor, positives: Tensor, high: float = 1.0) -> None:
    """Raise unless ``value`` holds a float in [0, high] for each positive."""
    check_entries(name, value, positives, "positive")
    if not looks_at_values(value) or len(value) == 0:
        return
    # NaN fails both comparisons and must be refused, hence the negation.
    if not bool(((value >= 0) & (value <= high)).all()):
        values = f"{float(value.min()):g} to {float(value.max()):g}"
        raise ValueError(f"{name}: expected values in [0, {high:g}], got {values}")


def check_ranking(
    logits: Tensor, positives: Tensor, delta: float = 0.0, *, quality: Tensor | None = None
) -> None:
    """Raise unless these are logits, unique indices of positives, a half-width and a quality."""
    check_vector("logits", logits)
    check_at_least("delta", delta, 0.0)
    check_vector("positives", positives, like=logits, integer=True)
    if quality is not None:
        check_per_positive("quality", quality, positives)
    if not looks_at_values(positives) or len(positives) == 0:
        return
    low, high = int(positives.min()), int(positives.max())
    if low < 0 or high >= len(logits):
        raise ValueError(f"positives: expected indices in [0, {len(logits)}), got {low} to {high}")
    unique = len(torch.unique(positives))
    if unique != len(positives):
        indices = f"{len(positives)} of which {unique} differ"
        raise ValueError(f"positives: expected unique indices, got {indices}")


def check_labels(name: str, scores: Tensor, labels: Tensor) -> None:
    """Raise unless ``scores`` is (R, K) float and ``labels`` (R,) int64 within the K classes."""
    right = _has_type(scores, integer=False) and scores.dim() == 2
    check_that(right, name, "a float tensor (R, K)", scores)
    check_entries("labels", labels, scores, "row", integer=True)
    if not looks_at_values(labels) or len(labels) == 0:
        return
    low, high, classes = int(labels.min()), int(labels.max()), scores.shape[1]
    if low < IGNORE or high >= classes:
        expected = f"a class below {classes}, {BACKGROUND} (background) or {IGNORE} (ignored)"
        raise ValueError(f"labels: expected {expected}, got {low} to {high}")


def check_masks(logits: Tensor, masks: Tensor) -> None:
    """Raise unless both are masks (Q, h, w)."""
    if logits.dim() != 3 or masks.shape != logits.shape:
        both = f"{describe(masks)} for {describe(logits)}"
        raise ValueError(f"masks: expected masks of the shape of logits, (Q, h, w), got {both}")


def check_detections(boxes: Tensor, scores: Tensor, classes: Tensor) -> None:
    """Raise unless these are boxes (n, 4), scores (n,) and integer classes (n,)."""
    right = boxes.dim() == 2 and boxes.shape[1] == 4 and boxes.is_floating_point()
    check_that(right, "boxes", "a float tensor (n, 4)", boxes)
    for name, value, floating in (("scores", scores, True), ("classes", classes, False)):
        kind = f"{'a float' if floating else 'an integer'} tensor ({len(boxes)},)"
        right = value.shape == boxes.shape[:1] and value.is_floating_point() == floating
        check_that(right, name, f"{kind}, one entry per box", value)
        check_that(value.device == boxes.device, name, f"a tensor on {boxes.device}", value)
