"""Baselines whose target at a positive is its localisation quality."""

import torch
from torch import Tensor
from torch.nn import functional

from ranking_det.checks import check_at_least
from ranking_det.labels import IGNORE
from ranking_det.losses.validation import check_labels, check_per_positive


def quality_focal(logits: Tensor, labels: Tensor, quality: Tensor, *, beta: float = 2.0) -> Tensor:
    """Let the score of each positive's class be its quality, and all other scores 0.

    Quality Focal Loss (Li et al., "Generalized Focal Loss", NeurIPS 2020, eq. 3), summed over all
    entries. O(R K) time and memory.

    Args:
        logits: (R, K) float.
        labels: (R,) int64, a class 0..K-1 or BACKGROUND or IGNORE; ignored rows do not count.
        quality: (P,) float in [0, 1] for the rows with a class, in row order. No gradient.
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
    logits, targets = _with_targets(logits, labels, quality)
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    # Not 0, where a power below 1 has an infinite slope.
    wrong = (targets - logits.sigmoid()).abs().clamp(min=torch.finfo(logits.dtype).tiny)
    return (wrong**beta * entropy).sum()


def varifocal(
    logits: Tensor,
    labels: Tensor,
    quality: Tensor,
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
    logits, targets = _with_targets(logits, labels, quality)
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    score = logits.detach().sigmoid()
    return (torch.where(targets > 0, targets, alpha * score**gamma) * entropy).sum()


def _with_targets(logits: Tensor, labels: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
    """The logits (R', K) of the rows that count, and their targets."""
    check_labels("logits", logits, labels)
    rows = torch.nonzero(labels >= 0).squeeze(1)
    check_per_positive("quality", quality, rows)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets = torch.zeros_like(logits)
    targets[rows, labels[rows]] = quality.detach().to(targets.dtype)
    keep = labels != IGNORE
    return logits[keep], targets[keep]
