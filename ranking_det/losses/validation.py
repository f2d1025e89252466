"""Checks of what callers pass: shapes, dtypes and devices always, values where they cost nothing.

Looking at values makes a GPU wait for the host, so there they are looked at only on request.
"""

import torch
from torch import Tensor

from ranking_det.checks import check_at_least, describe
from ranking_det.labels import BACKGROUND, IGNORE

_values_are_checked = False


def check_values(enabled: bool) -> None:
    """Choose whether values on a GPU are checked too, at the price of a synchronisation a call.

    Args:
        enabled: True to check them, for debugging; on the CPU they are always checked.
    """
    global _values_are_checked
    _values_are_checked = enabled


def looks_at_values(tensor: Tensor) -> bool:
    """Whether the values of ``tensor`` may be looked at."""
    return _values_are_checked or tensor.device.type == "cpu"


def check_vector(name: str, value: Tensor, *, like: Tensor | None = None) -> None:
    """Raise unless ``value`` is a one-dimensional float tensor, on the device of ``like``."""
    if not isinstance(value, Tensor) or value.dim() != 1 or not value.is_floating_point():
        raise ValueError(f"{name}: expected a float tensor of one dimension, got {describe(value)}")
    if like is not None and value.device != like.device:
        raise ValueError(f"{name}: expected a tensor on {like.device}, got {describe(value)}")


def check_positives(logits: Tensor, positives: Tensor) -> None:
    """Raise unless ``positives`` are unique indices into ``logits``."""
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


def check_per_positive(
    name: str, value: Tensor, positives: Tensor, low: float = 0.0, high: float = 1.0
) -> None:
    """Raise unless ``value`` holds a float in [low, high] for each positive."""
    check_vector(name, value, like=positives)
    if len(value) != len(positives):
        raise ValueError(
            f"{name}: expected one entry for each of the {len(positives)} positives, "
            f"got {len(value)}"
        )
    if not looks_at_values(value) or len(value) == 0:
        return
    # NaN fails both comparisons and must be refused, hence the negation.
    if not bool(((value >= low) & (value <= high)).all()):
        raise ValueError(
            f"{name}: expected values in [{low:g}, {high:g}], "
            f"got {float(value.min()):g} to {float(value.max()):g}"
        )


def check_ranking(logits: Tensor, positives: Tensor, delta: float) -> None:
    """Raise unless these are logits, indices of positives and a half-width of the step."""
    check_vector("logits", logits)
    check_positives(logits, positives)
    check_at_least("delta", delta, 0.0)


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


def check_group_ids(groups: Tensor, *vectors: Tensor) -> None:
    """Raise unless ``groups`` is int64, and as long as all the vectors."""
    if not isinstance(groups, Tensor) or groups.dim() != 1 or groups.dtype != torch.int64:
        raise ValueError(f"groups: expected int64 of one dimension, got {describe(groups)}")
    lengths = {len(groups)} | {len(vector) for vector in vectors}
    if len(lengths) > 1 or groups.device != vectors[0].device:
        raise ValueError(
            "groups: expected one entry on the same device for each score and IoU, got "
            f"{describe(groups)} for " + " and ".join(describe(vector) for vector in vectors)
        )
