"""Argument validation: numbers and choices, and the shapes, dtypes, devices and values of tensors.

Every check raises a ValueError that names the argument, what was expected and the value that was
given. Only tensors on the CPU have their values checked: on a GPU that would force a
synchronization.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ranking_det.labels import BACKGROUND, IGNORE


def describe(value: object) -> str:
    """Describe a value for an error message.

    Args:
        value: anything.

    Returns:
        The dtype, shape and device of a tensor; the repr of any other value.
    """
    if not isinstance(value, Tensor):
        return repr(value)
    return f"{value.dtype} of shape {tuple(value.shape)} on {value.device}"


def check_that(condition: bool, name: str, expected: str, value: object) -> None:
    """Raise a ValueError unless a condition holds.

    Args:
        condition: what must hold.
        name: the name of the argument.
        expected: what was expected, as a noun phrase.
        value: the value that was given.

    Raises:
        ValueError: ``condition`` is False: "name: expected EXPECTED, got VALUE".
    """
    if not condition:
        raise ValueError(f"{name}: expected {expected}, got {describe(value)}")


def should_check_values(tensor: Tensor) -> bool:
    """Return whether tensor values should be checked, which is only done on the CPU.

    Args:
        tensor: any tensor.

    Returns:
        Whether it is on the CPU.
    """
    return tensor.device.type == "cpu"


def check_at_least(name: str, value: float, low: float, *, strictly: bool = False) -> None:
    """Check that a value is a finite number and at least a minimum.

    Args:
        name: the name of the argument.
        value: its value.
        low: the minimum.
        strictly: whether the value must be above ``low``.

    Raises:
        ValueError: the value is too small or not a finite number; NaN and bool are rejected.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    is_valid = is_number and (value > low if strictly else value >= low) and value != float("inf")
    relation = "above" if strictly else "of at least"
    check_that(is_valid, name, f"a finite number {relation} {low:g}", value)


def check_integer(name: str, value: int, low: int) -> None:
    """Check that a value is an integer and at least a minimum.

    Args:
        name: the name of the argument.
        value: its value.
        low: the minimum.

    Raises:
        ValueError: the value is too small or not an integer; bool is rejected.
    """
    is_valid = isinstance(value, int) and not isinstance(value, bool) and value >= low
    check_that(is_valid, name, f"an integer of at least {low}", value)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Check that a value is one of several choices.

    Args:
        name: the name of the argument.
        value: its value.
        choices: the allowed values.

    Raises:
        ValueError: the value is not one of the choices.
    """
    check_that(value in choices, name, f"one of {', '.join(choices)}", value)


def check_entries(
    name: str, value: Tensor, reference: Tensor, row_name: str, *, integer: bool = False
) -> None:
    """Check that a vector has one entry for each row of another tensor.

    Args:
        name: the name of the argument.
        value: the vector; it must be (n,), float or int64, on the device of ``reference``.
        reference: (n, ...), the tensor that it belongs to.
        row_name: what a row of ``reference`` is, for the message.
        integer: whether ``value`` must be int64; otherwise it must be floating point.

    Raises:
        ValueError: the dtype, shape or device is wrong.
    """
    is_valid = _has_type(value, integer) and value.shape == reference.shape[:1]
    kind = "an int64 tensor" if integer else "a float tensor"
    expected = (
        f"{kind} of shape ({len(reference)},) on {reference.device}, one entry per {row_name}"
    )
    check_that(is_valid and value.device == reference.device, name, expected, value)


def check_vector(
    name: str, value: Tensor, *, reference: Tensor | None = None, integer: bool = False
) -> None:
    """Check that a tensor has one dimension, and its dtype and device.

    Args:
        name: the name of the argument.
        value: the tensor; it must have one dimension, float or int64.
        reference: a tensor on the device that ``value`` must be on; None for any device.
        integer: whether ``value`` must be int64; otherwise it must be floating point.

    Raises:
        ValueError: the dtype, the number of dimensions or the device is wrong.
    """
    kind = "int64" if integer else "float"
    is_valid = _has_type(value, integer) and value.dim() == 1
    check_that(is_valid, name, f"a one-dimensional {kind} tensor", value)
    if reference is not None:
        check_that(value.device == reference.device, name, f"a tensor on {reference.device}", value)


def _has_type(value: object, integer: bool) -> bool:
    if not isinstance(value, Tensor):
        return False
    return value.dtype == torch.int64 if integer else value.is_floating_point()


def check_per_positive(name: str, value: Tensor, positives: Tensor, high: float = 1.0) -> None:
    """Check that a vector has a value in [0, high] for each positive.

    Args:
        name: the name of the argument.
        value: the vector; it must be (P,) float.
        positives: (P,) int64 indices of the positives.
        high: the maximum.

    Raises:
        ValueError: the dtype, shape or device is wrong, or a value is out of range (NaN included).
    """
    check_entries(name, value, positives, "positive")
    if not should_check_values(value) or len(value) == 0:
        return
    # The negation rejects NaN, which fails both comparisons.
    if not bool(((value >= 0) & (value <= high)).all()):
        values = f"values from {float(value.min()):g} to {float(value.max()):g}"
        raise ValueError(f"{name}: expected values in [0, {high:g}], got {values}")


def check_ranking(
    logits: Tensor, positives: Tensor, delta: float = 0.0, *, quality: Tensor | None = None
) -> None:
    """Check the arguments that ranking losses share.

    Args:
        logits: must be (M,) float.
        positives: must be (P,) int64, unique indices into ``logits``, on its device.
        delta: the half-width of the step in logits, must be >= 0.
        quality: must be (P,) float in [0, 1]; None for a loss without qualities.

    Raises:
        ValueError: an argument is not as described.
    """
    check_vector("logits", logits)
    check_at_least("delta", delta, 0.0)
    check_vector("positives", positives, reference=logits, integer=True)
    if quality is not None:
        check_per_positive("quality", quality, positives)
    if not should_check_values(positives) or len(positives) == 0:
        return
    low, high = int(positives.min()), int(positives.max())
    if low < 0 or high >= len(logits):
        indices = f"indices from {low} to {high}"
        raise ValueError(f"positives: expected indices in [0, {len(logits)}), got {indices}")
    unique = len(torch.unique(positives))
    if unique != len(positives):
        indices = f"{len(positives)} indices, {unique} of them distinct"
        raise ValueError(f"positives: expected unique indices, got {indices}")


def check_classes(name: str, classes: Tensor, num_classes: int | None = None) -> None:
    """Check the class indices of ground-truth objects.

    Args:
        name: the name of the argument.
        classes: (G,) int64, each must be in 0..K-1. Otherwise -1 would become background, and an
            index of K or more would end the process on a GPU.
        num_classes: K; None if it is not known.

    Raises:
        ValueError: an index is out of range.
    """
    if not should_check_values(classes) or len(classes) == 0:
        return
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or (num_classes is not None and high >= num_classes):
        limit = "of at least 0" if num_classes is None else f"from 0 to {num_classes - 1}"
        invalid_index = low if low < 0 else high
        raise ValueError(f"{name}: expected class indices {limit}, got {invalid_index}")


def check_labels(name: str, scores: Tensor, labels: Tensor) -> None:
    """Check class scores and the class labels of their rows.

    Args:
        name: the name of the argument ``scores``.
        scores: must be (R, K) float.
        labels: must be (R,) int64, each a class 0..K-1, BACKGROUND or IGNORE.

    Raises:
        ValueError: an argument is not as described.
    """
    is_valid = _has_type(scores, integer=False) and scores.dim() == 2
    check_that(is_valid, name, "a float tensor (R, K)", scores)
    check_entries("labels", labels, scores, "row", integer=True)
    if not should_check_values(labels) or len(labels) == 0:
        return
    low, high, classes = int(labels.min()), int(labels.max()), scores.shape[1]
    if low < IGNORE or high >= classes:
        expected = f"a class below {classes}, {BACKGROUND} (background) or {IGNORE} (ignored)"
        raise ValueError(f"labels: expected {expected}, got labels from {low} to {high}")


def check_masks(logits: Tensor, masks: Tensor) -> None:
    """Check that mask logits and ground-truth masks have the same shape (Q, h, w).

    Args:
        logits: predicted masks.
        masks: ground-truth masks.

    Raises:
        ValueError: their shapes differ or do not have three dimensions.
    """
    if logits.dim() != 3 or masks.shape != logits.shape:
        shapes = f"{describe(masks)} for logits {describe(logits)}"
        raise ValueError(f"masks: expected the same shape (Q, h, w) as logits, got {shapes}")


def check_detections(boxes: Tensor, scores: Tensor, classes: Tensor) -> None:
    """Check the boxes, scores and classes of detections.

    Args:
        boxes: must be (n, 4) float.
        scores: must be (n,) float, on the device of ``boxes``.
        classes: must be (n,) integer, on the device of ``boxes``.

    Raises:
        ValueError: an argument is not as described.
    """
    is_valid = boxes.dim() == 2 and boxes.shape[1] == 4 and boxes.is_floating_point()
    check_that(is_valid, "boxes", "a float tensor (n, 4)", boxes)
    for name, value, floating in (("scores", scores, True), ("classes", classes, False)):
        kind = f"{'a float' if floating else 'an integer'} tensor ({len(boxes)},)"
        is_valid = value.shape == boxes.shape[:1] and value.is_floating_point() == floating
        check_that(is_valid, name, f"{kind}, one entry per box", value)
        check_that(value.device == boxes.device, name, f"a tensor on {boxes.device}", value)
