"""Losses that do not rank: cross entropy, Focal, Quality Focal and Varifocal Loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ranking_det.checks import (
    check_at_least,
    check_entries,
    check_integer,
    check_labels,
    check_per_positive,
    check_that,
)
from ranking_det.labels import BACKGROUND, IGNORE


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    negatives_per_positive: int | None = None,
    image: Tensor | None = None,
) -> Tensor:
    """Sum the softmax cross entropy of each row over K classes and the background.

    The classification loss of Fast and Faster R-CNN (Ren et al., NeurIPS 2015), with the logit of
    the background fixed at 0. This does not restrict the model: a softmax depends on differences of
    logits only, so the background's can be subtracted from K + 1 logits. With one class this is the
    binary cross entropy.

    With hard negative mining, only the background rows with the highest loss count, a number of
    them for each positive of the image (Liu et al., SSD, ECCV 2016, section 2.2). In an image
    without positives, all of them count.

    Args:
        logits: (R, K) float, raw.
        labels: (R,) int64, a class 0..K-1, or BACKGROUND, or IGNORE for rows that do not count.
        negatives_per_positive: background rows that count for each positive, >= 1; None for all.
        image: (R,) int64, the image of each row; None if all are of one image.

    Returns:
        A scalar >= 0, at least float32, with gradient. Divide it by the number of rows, or with
        hard negative mining by the number of positives.

    Raises:
        ValueError: a shape, dtype, device or label is not as described.

    Example:
        >>> cross_entropy(torch.zeros(2, 3), torch.tensor([1, BACKGROUND]))
        tensor(2.7726)
    """
    check_labels("logits", logits, labels)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets = torch.where(labels == BACKGROUND, logits.shape[1], labels)
    # Drop ignored rows instead of weighting them by 0: their logits may be infinite.
    valid = labels != IGNORE
    with_background = functional.pad(wide[valid], (0, 1))
    if negatives_per_positive is None:
        return functional.cross_entropy(with_background, targets[valid], reduction="sum")
    check_integer("negatives_per_positive", negatives_per_positive, 1)
    image = torch.zeros_like(labels) if image is None else image
    check_entries("image", image, labels, "row", integer=True)
    losses = functional.cross_entropy(with_background, targets[valid], reduction="none")
    is_negative = labels[valid] == BACKGROUND
    is_used = _mine(losses.detach(), is_negative, image[valid], negatives_per_positive)
    return losses[is_used].sum()


def _mine(losses: Tensor, is_negative: Tensor, image: Tensor, ratio: int) -> Tensor:
    """Find the rows (R,) that count: the positives, and the hardest negatives of each image."""
    order = losses.argsort(descending=True, stable=True)
    order = order[image[order].argsort(stable=True)]
    image, is_negative = image[order], is_negative[order]
    num_images = int(image[-1]) + 1 if len(image) else 0
    counts = torch.zeros(2, num_images, dtype=torch.int64, device=image.device)
    counts.index_add_(1, image, torch.stack([is_negative, ~is_negative]).long())
    negatives, positives = counts
    limit = torch.where(positives > 0, ratio * positives, negatives)
    # The place of a negative among those of its image, 1 for the hardest.
    place = is_negative.cumsum(0) - (negatives.cumsum(0) - negatives)[image]
    is_used = torch.empty_like(is_negative)
    is_used[order] = ~is_negative | (place <= limit[image])
    return is_used


def focal(
    logits: Tensor,
    labels: Tensor,
    positives: Tensor | None = None,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Sum the focal loss of all entries: binary cross entropy that down-weights easy entries.

    -alpha_t (1 - p_t)^gamma log(p_t), with one sigmoid per class (Lin et al., "Focal Loss for Dense
    Object Detection", ICCV 2017, eq. 5). The values equal those of fvcore's sigmoid_focal_loss.
    This function needs torch only, takes labels instead of one-hot targets, and has finite
    gradients for gamma < 1. O(R K) time and memory.

    Args:
        logits: (R, K) float, raw.
        labels: (R,) int64, a class 0..K-1, or BACKGROUND, or IGNORE for rows that do not count.
        positives: (P,) int64, the rows that have a class, ascending; None to find them in
            ``labels``.
        alpha: weight of the positives, in [0, 1]; the weight of the negatives is 1 - alpha.
        gamma: exponent of the modulating factor, >= 0.

    Returns:
        A scalar >= 0, at least float32, with gradient. Divide it by the number of positives.

    Raises:
        ValueError: a shape, dtype, device, label or option is not as described.

    Example:
        >>> focal(torch.zeros(1, 1), torch.tensor([0]), alpha=1.0, gamma=0.0)
        tensor(0.6931)
    """
    check_at_least("alpha", alpha, 0.0)
    check_at_least("gamma", gamma, 0.0)
    check_that(alpha <= 1, "alpha", "a number in [0, 1]", alpha)
    entropy, logits, targets = _entropies(logits, labels, positives, None)
    score = logits.sigmoid()
    error = score + targets - 2 * score * targets  # 1 - p_t
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    # Keep away from 0, where a power below 1 has an infinite slope.
    error = error.clamp(min=torch.finfo(error.dtype).tiny)
    return (weight * error**gamma * entropy).sum()


def quality_focal(
    logits: Tensor,
    labels: Tensor,
    quality: Tensor,
    positives: Tensor | None = None,
    *,
    beta: float = 2.0,
) -> Tensor:
    """Sum the Quality Focal Loss: the target of a positive is its quality, other targets are 0.

    |y - p|^beta times the binary cross entropy of the score p with the target y (Li et al.,
    "Generalized Focal Loss", NeurIPS 2020, eq. 3). O(R K) time and memory.

    Args:
        logits: (R, K) float, raw.
        labels: (R,) int64, a class 0..K-1, or BACKGROUND, or IGNORE for rows that do not count.
        quality: (P,) float in [0, 1], the IoU of each row that has a class, in row order. No
            gradient.
        positives: (P,) int64, the rows that have a class, ascending; None to find them in
            ``labels``.
        beta: exponent of |y - p|, >= 0.

    Returns:
        A scalar >= 0, at least float32, with gradient. Divide it by the number of positives.

    Raises:
        ValueError: a shape, dtype, device or value is not as described.

    Example:
        >>> quality_focal(torch.zeros(1, 1), torch.tensor([0]), torch.tensor([1.0]))
        tensor(0.1733)
    """
    check_at_least("beta", beta, 0.0)
    entropy, logits, targets = _entropies(logits, labels, positives, quality)
    # Keep away from 0, where a power below 1 has an infinite slope.
    error = (targets - logits.sigmoid()).abs().clamp(min=torch.finfo(logits.dtype).tiny)
    return (error**beta * entropy).sum()


def varifocal(
    logits: Tensor,
    labels: Tensor,
    quality: Tensor,
    positives: Tensor | None = None,
    *,
    alpha: float = 0.75,
    gamma: float = 2.0,
) -> Tensor:
    """Sum the Varifocal Loss: the targets are qualities, and easy negatives are down-weighted.

    The binary cross entropy of the score p with the target q, times q where q > 0 and times
    alpha p^gamma where q = 0 (Zhang et al., "VarifocalNet", CVPR 2021, eq. 2). The weights have no
    gradient. A positive of quality 0 counts as a negative. O(R K) time and memory.

    Args:
        logits: (R, K) float, raw.
        labels: (R,) int64, a class 0..K-1, or BACKGROUND, or IGNORE for rows that do not count.
        quality: (P,) float in [0, 1], the IoU of each row that has a class, in row order. No
            gradient.
        positives: (P,) int64, the rows that have a class, ascending; None to find them in
            ``labels``.
        alpha: weight of the negatives, >= 0.
        gamma: exponent of a negative's score in its weight, >= 0.

    Returns:
        A scalar >= 0, at least float32, with gradient. Divide it by the number of positives.

    Raises:
        ValueError: a shape, dtype, device or value is not as described.

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
    """Compute binary cross entropies, logits and targets, (R', K) each, of the rows that count.

    The target of a positive at its class is its quality, or 1 if quality is None; all other targets
    are 0.
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
    valid = labels != IGNORE
    logits, targets = logits[valid], targets[valid]
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return entropy, logits, targets
