"""The IoU-guided ranking loss of RankDetNet (Liu et al., CVPR 2021)."""

import torch
from torch import Tensor

from ranking_det.checks import check_at_least, check_choice
from ranking_det.losses.kernels.given_gradient import Part, attached_zero, carry, exact_arithmetic
from ranking_det.losses.kernels.ranked_groups import MAX_EXPONENT, PAIRS
from ranking_det.losses.validation import check_group_ids, check_vector


def iou_guided_ranking_loss(
    scores: Tensor,
    ious: Tensor,
    groups: Tensor,
    *,
    alpha: float = 1.0,
    iou_gradient: str = "higher",
    reduction: str = "sum",
) -> Tensor:
    """Make the order of the positives' scores agree with that of their IoU.

    For each pair of positives of one group, a of the higher score and b of the lower,
    exp(-alpha (f_a - f_b) (s_a - s_b)), averaged over the pairs of a group and summed over the
    groups (eq. 6). O(P S) time with S positives in the largest group, in blocks of bounded memory.

    Args:
        scores: (P,) float, f of each positive in its own class.
        ious: (P,) float, s, the IoU of each positive with its object; with gradient.
        groups: (P,) int64; only positives of the same group are compared, in the paper those of
            one class and level.
        alpha: sharpness, > 0.
        iou_gradient: which of the two IoUs has a gradient: that of the "higher" score, "both" or
            "none".
        reduction: "sum" over the groups, or their "mean", of those that have a pair.

    Returns:
        A scalar; zero, attached to the graph, if there is no pair.

    Raises:
        ValueError: if a shape, dtype, device, option or value is not as described.

    Example:
        >>> scores, ious = torch.tensor([0.7, 0.4]), torch.tensor([0.5, 0.8])
        >>> print(f"{iou_guided_ranking_loss(scores, ious, torch.zeros(2, dtype=torch.int64)):.4f}")
        1.0942
    """
    check_vector("scores", scores)
    check_vector("ious", ious, like=scores)
    check_group_ids(groups, scores, ious)
    check_at_least("alpha", alpha, 0.0, strictly=True)
    check_choice("iou_gradient", iou_gradient, ("higher", "both", "none"))
    check_choice("reduction", reduction, ("sum", "mean"))
    images = torch.zeros_like(groups) if reduction == "mean" else None
    return rank_by_iou(scores, ious, groups, images, 1, alpha, iou_gradient)


def rank_by_iou(
    scores: Tensor,
    ious: Tensor,
    groups: Tensor,
    images: Tensor | None,
    num_images: int,
    alpha: float,
    iou_gradient: str,
) -> Tensor:
    """The sum over images of each one's sum over its groups, or of their mean.

    The host waits once for a GPU.

    Args:
        scores: (P,) float.
        ious: (P,) float.
        groups: (P,) int64; positives of different images have different groups.
        images: (P,) int64, the image of each positive, for the mean; None for the sum.
        num_images: how many.
        alpha: see :func:`iou_guided_ranking_loss`.
        iou_gradient: see :func:`iou_guided_ranking_loss`.

    Returns:
        A scalar; zero, attached to the graph, if there is no pair.
    """
    inputs = torch.cat([scores, ious])
    if len(scores) == 0:
        return attached_zero(inputs)
    with exact_arithmetic(inputs):
        dtype = torch.promote_types(inputs.dtype, torch.float32)
        groups, order = torch.sort(groups, stable=True)
        f, s = scores.detach().to(dtype)[order], ious.detach().to(dtype)[order]
        first = torch.searchsorted(groups, groups)
        last = torch.searchsorted(groups, groups, right=True)
        weights = _pair_weights(first, last, dtype)
        if images is not None:
            heads = (first == torch.arange(len(f), device=f.device)) & (weights > 0)
            images = images[order]
            count = f.new_zeros(num_images).index_add_(0, images, heads.to(dtype))
            weights = weights / count[images].clamp_min(1)
        value, *gradients = _visit_pairs(f, s, first, last, weights, alpha, iou_gradient)
        back = torch.argsort(order)
        part = Part(value, torch.cat([gradient[back] for gradient in gradients]))
    return carry(inputs, part)[0]


def _pair_weights(first: Tensor, last: Tensor, dtype: torch.dtype) -> Tensor:
    """1 over the number of pairs of each positive's group, 0 where there is none."""
    size = last - first
    pairs = (size * (size - 1) // 2).to(dtype)
    return (1 / pairs).masked_fill_(pairs == 0, 0)


def _visit_pairs(
    f: Tensor,
    s: Tensor,
    first: Tensor,
    last: Tensor,
    weights: Tensor,
    alpha: float,
    iou_gradient: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compare each positive with those from ``first`` to before ``last``, its group."""
    value, at_f, at_s = f.new_zeros(()), torch.zeros_like(f), torch.zeros_like(s)
    # The one time that the host waits for the device.
    largest = int((last - first).max())
    size = max(1, PAIRS // largest)
    for start in range(0, len(f), size):
        rows = slice(start, start + size)
        others = first[rows, None] + torch.arange(largest, device=f.device)
        outside = others >= last[rows, None]
        others.clamp_(max=len(f) - 1)
        df, ds = f[rows, None] - f[others], s[rows, None] - s[others]
        loss = (-alpha * df * ds).clamp_(max=MAX_EXPONENT).exp_()
        loss.mul_(weights[rows, None]).masked_fill_(outside, 0)
        # Both orders of each pair were visited, and each positive with itself, where l = 1.
        value += (loss.sum() - weights[rows].sum()) / 2
        at_f[rows] = -alpha * (loss * ds).sum(1)
        if iou_gradient == "higher":
            loss.masked_fill_(df < 0, 0)
        if iou_gradient != "none":
            at_s[rows] = -alpha * (loss * df).sum(1)
    return value, at_f, at_s
