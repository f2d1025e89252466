"""The IoU-guided ranking loss of RankDetNet (Liu et al., CVPR 2021)."""

import torch
from torch import Tensor

from ranking_det.checks import check_at_least, check_choice
from ranking_det.losses.carry import Part, attached_zero, carry, exact_arithmetic
from ranking_det.losses.validation import check_group_ids, check_vector

# exp of more overflows single precision.
MAX_EXPONENT = 80.0
# Pairs at a time.
PAIRS = 1 << 18


def iou_guided_ranking_loss(
    scores: Tensor,
    ious: Tensor,
    groups: Tensor,
    *,
    alpha: float = 1.0,
    iou_gradient: str = "higher",
) -> Tensor:
    """Make the order of the positives' scores agree with that of their IoU.

    For each pair of positives of one group, a of the higher score and b of the lower,
    exp(-alpha (f_a - f_b) (s_a - s_b)) (eq. 6), averaged over the pairs of a group and then over
    the groups that have a pair. O(P^2) time in blocks of bounded memory.

    Args:
        scores: (P,) float, f of each positive in its own class.
        ious: (P,) float, s, the IoU of each positive with its object; with gradient.
        groups: (P,) int64; only positives of the same group are compared, in the paper those of
            one class and level.
        alpha: sharpness, > 0.
        iou_gradient: which of the two IoUs has a gradient: that of the "higher" score, "both" or
            "none".

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
    inputs = torch.cat([scores, ious])
    if len(scores) == 0:
        return attached_zero(inputs)
    with exact_arithmetic(inputs):
        dtype = torch.promote_types(inputs.dtype, torch.float32)
        f, s = scores.detach().to(dtype), ious.detach().to(dtype)
        value, gradients = _visit_pairs(f, s, groups, alpha, iou_gradient)
    return carry(inputs, Part(value, gradients))[0]


def _visit_pairs(
    f: Tensor, s: Tensor, groups: Tensor, alpha: float, iou_gradient: str
) -> tuple[Tensor, Tensor]:
    _, member, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
    pairs = (sizes * (sizes - 1) // 2).to(f.dtype)
    # Each pair of a group weighs the same, and each group that has one.
    weights = (1 / pairs / (pairs > 0).sum()).masked_fill(pairs == 0, 0)[member]
    value, at_f, at_s = f.new_zeros(()), torch.zeros_like(f), torch.zeros_like(s)
    size = max(1, PAIRS // len(f))
    for start in range(0, len(f), size):
        rows = slice(start, start + size)
        df, ds = f[rows, None] - f[None, :], s[rows, None] - s[None, :]
        loss = (-alpha * df * ds).clamp_(max=MAX_EXPONENT).exp_()
        loss.mul_(weights[rows, None]).masked_fill_(member[rows, None] != member[None, :], 0)
        # Both orders of each pair were visited, and each positive with itself, where l = 1.
        value += (loss.sum() - weights[rows].sum()) / 2
        at_f[rows] = -alpha * (loss * ds).sum(1)
        if iou_gradient == "higher":
            loss.masked_fill_(df < 0, 0)
        if iou_gradient != "none":
            at_s[rows] = -alpha * (loss * df).sum(1)
    return value, torch.cat([at_f, at_s])
