"""Score-based baselines that the ranking losses are compared with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ranking_det.checks import check_at_least
from ranking_det.labels import IGNORE
from ranking_det.losses.validation import check_labels


def focal(logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sum of the binary cross entropies of all entries, those already right weighed down.

    Focal Loss (Lin et al., ICCV 2017), eq. 5, with one sigmoid per class. Time and memory O(R K).
    As fvcore's sigmoid_focal_loss, but with torch alone, for labels instead of one-hot targets, and
    with finite slopes where fvcore's have none (gamma below 1).

    Args:
        logits: (R, K) float.
        labels: (R,) int64, a class 0..K-1 or BACKGROUND or IGNORE; ignored rows do not count.
        alpha: weight of the positives, in [0, 1]; negatives weigh 1 - alpha.
        gamma: exponent of the modulating factor, >= 0.

    Returns:
        A scalar, at least float32, with gradient. Divide it by the number of positives.

    Raises:
        ValueError: a shape, dtype, label or option is not as described.

    >>> focal(torch.zeros(1, 1), torch.tensor([0]), alpha=1.0, gamma=0.0)
    tensor(0.6931)
    """
    check_labels("logits", logits, labels)
    check_at_least("alpha", alpha, 0.0)
    check_at_least("gamma", gamma, 0.0)
    if alpha > 1:
        raise ValueError(f"alpha: expected a number in [0, 1], got {alpha!r}")
    keep = labels != IGNORE
    logits, labels = logits[keep], labels[keep]
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    rows = torch.nonzero(labels >= 0).squeeze(1)
    targets = torch.zeros_like(logits)
    targets[rows, labels[rows]] = 1
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    score = logits.sigmoid()
    wrong = score + targets - 2 * score * targets  # 1 - p_t
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    # Not 0, where a power below 1 has an infinite slope.
    wrong = wrong.clamp(min=torch.finfo(wrong.dtype).tiny)
    return (weight * wrong**gamma * entropy).sum()
