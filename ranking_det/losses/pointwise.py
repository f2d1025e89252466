"""Baselines that do not rank: cross entropy, Focal, Quality Focal and Varifocal Loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ranking_det.checks import check_at_least, check_labels, check_per_positive, check_that
from ranking_det.labels import BACKGROUND, IGNORE


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the softmax cross entropies of the rows over K classes and the background.

    The background's logit is 0. That loses nothing, as a softmax sees differences only: of K + 1
    logits (Ren et al., NeurIPS 2015) the last can be subtracted. With one class this is the binary
    cross entropy.

    Args:
        logits: (R, K) float.
        labels: (R,) int64, a class 0..K-1 or BACKGROUND or IGNORE; ignored rows do not count.

    Returns:
        A scalar, at least float32, with gradient. Divide it by the number of rows.

    Raises:
        ValueError: a shape, dtype or label is not as described.

    >>> cross_entropy(torch.zeros(2, 3), torch.tensor([1, BACKGROUND]))
    tensor(2.7726)
    """
    check_labels("logits", logits, labels)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets = torch.where(labels == BACKGROUND, logits.shape[1], labels)
    # Not by the ignored rows' gradient of zero: their logits may be infinite.
    counted = labels != IGNORE
    with_background = functional.pad(wide[counted], (0, 1))
    return functional.cross_entropy(with_background, targets[counted], reduction="sum")


def focal(
    logits: Tensor,
    labels: Tensor,
    positives: Tensor | None = None,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Sum of the binary cross entropies of all entries, those already right weighed down.

    Focal Loss (Lin et al., ICCV 2017), eq. 5, with one sigmoid per class. Time and memory O(R K).
    As fvcore's sigmoid_focal_loss, but with torch alone, for labels instead of one-hot targets, and
    with finite slopes where fvcore's have none (gamma below 1).

    Args:
        logits: (R, K) float.
        labels: (R,) int64, a class 0..K-1 or BACKGROUND or IGNORE; ignored rows do not count.
        positives: (P,) int64, the rows with a class, ascending; None to find them.
        alpha: weight of the positives, in [0, 1]; negatives weigh 1 - alpha.
        gamma: exponent of the modulating factor, >= 0.

    Returns:
        A scalar, at least float32, with gradient. Divide it by the number of positives.

    Raises:
        ValueError: a shape, dtype, label or option is not as described.

    >>> focal(torch.zeros(1, 1), torch.tensor([0]), alpha=1.0, gamma=0.0)
    tensor(0.6931)
    """
    check_at_least("alpha", alpha, 0.0)
    check_at_least("gamma", gamma, 0.0)
    check_that(alpha <= 1, "alpha", "a number in [0, 1]", alpha)
    entropy, logits, targets = _entropies(logits, labels, positives, None)
    score = logits.sigmoid()
    wrong = score + targets - 2 * score * targets  # 1 - p_t
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    # Not 0, where a power below 1 has an infinite slope.
    wrong = wrong.clamp(min=torch.finfo(wrong.dtype).tiny)
    return (weight * wrong**gamma * entropy).sum()


def quality_focal(
    logits: Tensor,
    labels: Tensor,
    quality: Tensor,
    positives: Tensor | None = None,
    *,
    beta: float = 2.0,
) -> Tensor:
    """Let the score of each positive's class be its quality, and all other scores 0.

    Quality Focal Loss (Li et al., "Generalized Focal Loss", NeurIPS 2020, eq. 3), summed over all
    entries. O(R K) time and memory.

    Args:
        logits: (R, K) float.
        labels: (R,) int64, a class 0..K-1 or BACKGROUND or IGNORE; ignored rows do not count.
        quality: (P,) float in [0, 1] for the rows with a class, in row order. No gradient.
        positives: (P,) int64, the rows with a class, ascending; None to find them.
        beta: exponent of |target - score|, which weighs the cross entropy, >= 0.

    Returns:
        A scalar, at least float32, with gradient. Divide it by the number of positives.

    Raises:
        ValueError: if a shape, dtype, device or value is not as described.

    Example:
        >>> quality_focal(torch.zeros(1, 1), torch.tensor([0]), torch.tensor([1.0]))
        tensor(0.1733)
    """
    check_at_least("beta", beta, 0.0)
    entropy, logits, targets = _entropies(logits, labels, positives, quality)
    # Not 0, where a power below 1 has an infinite slope.
    wrong = (targets - logits.sigmoid()).abs().clamp(min=torch.finfo(logits.dtype).tiny)
    return (wrong**beta * entropy).sum()


def varifocal(
    logits: Tensor,
    labels: Tensor,
    quality: Tensor,
    positives: Tensor | None = None,
    *,
    alpha: float = 0.75,
    gamma: float = 2.0,
) -> Tensor:
    """Let scores be qualities; weigh positives by their quality and easy negatives down.

    Varifocal Loss (Zhang et al., "VarifocalNet", CVPR 2021, eq. 2), summed over all entries. The
    weights have no gradient. A positive of quality 0 counts as a negative. O(R K) time and memory.

    Args:
        logits: (R, K) float.
        labels: (R,) int64, a class 0..K-1 or BACKGROUND or IGNORE; ignored rows do not count.
        quality: (P,) float in [0, 1] for the rows with a class, in row order. No gradient.
        positives: (P,) int64, the rows with a class, ascending; None to find them.
        alpha: weight of the negatives, >= 0.
        gamma: exponent of the negatives' score in their weight, >= 0.

    Returns:
        A scalar, at least float32, with gradient. Divide it by the number of positives.

    Raises:
        ValueError: if a shape, dtype, device or value is not as described.

    Example:
        >>> varifocal(torch.zeros(1, 1), torch.tensor([0]), torch.tensor([1.0]))
        tensor(0.6931)
    """
    check_at_least("alpha", alpha, 0.0)
    check_at_least("gamma", gamma, 0.0)
    entropy, logits, targets = _entropies(logits, labels, positives, quality)
    score = logits.detach().sigmoid()
    return (torch.where(targets > 0, targets, alpha * score**gamma) * entropy).sum()


def _entropies(
    logits: Tensor, labels: Tensor, positives: Tensor | None, quality: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The binary cross entropies, logits and targets, (R', K) each, of the rows that count.

    A positive's target at its class is its quality, or 1 for None; all other targets are 0.
    """
    check_labels("logits", logits, labels)
    if positives is None:
        positives = torch.nonzero(labels >= 0).squeeze(1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets = torch.zeros_like(logits)
    if quality is not None:
        check_per_positive("quality", quality, positives)
        quality = quality.detach().to(targets.dtype)
    targets[positives, labels[positives]] = 1 if quality is None else quality
    counted = labels != IGNORE
    logits, targets = logits[counted], targets[counted]
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return entropy, logits, targets
