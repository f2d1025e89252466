"""Softmax cross entropy, what R-CNNs are trained with where nothing ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ranking_det.labels import BACKGROUND, IGNORE
from ranking_det.losses.validation import check_labels


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the cross entropies of the rows over K classes and the background.

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
    keep = labels != IGNORE
    with_background = functional.pad(wide[keep], (0, 1))
    return functional.cross_entropy(with_background, targets[keep], reduction="sum")
