"""APE Loss (Xu et al., CVPR 2022): Adaptive Pairwise Error.

Equation numbers refer to "Revisiting AP Loss for Dense Object Detection: Adaptive Ranking Pair
Selection".
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ranking_det.checks import check_at_least, check_choice, check_ranking, check_that
from ranking_det.losses.kernels import constants
from ranking_det.losses.kernels.gradients import (
    LossTerm,
    attach_gradients,
    exact_arithmetic,
    zero_loss,
)
from ranking_det.losses.kernels.ranked_logits import RankedLogits, gather_ranked_logits
from ranking_det.losses.kernels.sigmoid_sums import SigmoidSums


def ape_loss(
    logits: Tensor,
    positives: Tensor,
    quality: Tensor,
    *,
    lam: float = 8.0,
    cutoff: float | None = -4.0,
    count_self: bool = True,
    max_negatives: int | None = 100_000,
    weight_by_quality: bool = True,
    saturate: bool = False,
    normalizer: str = "positives",
) -> Tensor:
    """Rank each positive above the negatives and above the positives with a lower IoU (APE Loss).

    For a positive u these entries are the set A_u. The loss is the mean over u of I_u / BC_u times
    the sum over v in A_u of softplus(lam d_vu) / lam, with d_vu = s_v - s_u (eq. 9 and 10; the
    weight I_u is in section 7.1). The balance constant BC_u is the sum of sigmoid(lam d_vu) over
    all negatives and positives, without gradient.

    Unlike the paper, the defaults leave out pairs that are far apart and count u itself in BC_u, as
    the paper's code does; ``cutoff=None, count_self=False`` is eq. 10. Unlike the paper's code,
    pairs that are in the wrong order by more than 16.6 / lam keep their gradient, unless
    ``saturate``.

    The time grows with the number of pairs that are neither cut off nor far in the wrong order, and
    the memory with M and the size of a block of pairs.

    Args:
        logits: (M,) float, raw. Negatives of -inf are ignored.
        positives: (P,) int64, unique indices into ``logits``; P may be 0.
        quality: (P,) float in [0, 1], I, the IoU of each positive with its object. No gradient.
        lam: slope of the sigmoid, > 0.
        cutoff: leave out pairs with lam d <= cutoff, < 0; None to leave out none.
        count_self: True to let u itself add sigmoid(0) = 1/2 to BC_u.
        max_negatives: rank only this many negatives, with the highest logits; None for all.
        weight_by_quality: True to weight the error of u by I_u, False to weight all equally.
        saturate: True to compute softplus as the cross entropy of a single-precision sigmoid. Where
            that sigmoid is 1, the pair counts 100 / lam and sends no gradient.
        normalizer: divide the sum by the number of all "positives", or of the "active" ones, which
            have a non-empty A_u.

    Returns:
        A scalar >= 0. Without positives it is a zero attached to the graph. It is NaN if a logit is
        NaN or a positive is infinite. It is infinite if a negative is +inf; with ``saturate`` each
        such pair counts 100 / lam instead.

    Raises:
        ValueError: a shape, dtype, device, option or value is not as described.

    Example:
        >>> logits = torch.tensor([1.4, 1.2, 0.8, 0.5, 0.4, 0.3, 0.1, -0.5])
        >>> positives, quality = torch.tensor([1, 2, 3, 5]), torch.tensor([0.3, 0.9, 0.6, 0.8])
        >>> print(f"{ape_loss(logits, positives, quality):.6f}")
        0.257076
    """
    check_ranking(logits, positives, quality=quality)
    check_at_least("lam", lam, 0.0, strictly=True)
    check_choice("normalizer", normalizer, ("positives", "active"))
    below_zero = isinstance(cutoff, (int, float)) and cutoff < 0
    check_that(cutoff is None or below_zero, "cutoff", "a number below 0 or None", cutoff)
    with exact_arithmetic(logits):
        ranked = gather_ranked_logits(logits, positives, [quality], max_negatives=max_negatives)
        if ranked is not None:
            sums = SigmoidSums(ranked, lam, cutoff, saturate)
            share, visible, softplus, trained = _sum_over_positive_pairs(sums, ranked, count_self)
            weights = share * ranked.columns[0] if weight_by_quality else share
            active = (sums.visible + visible > 0).sum().clamp_min(1)
            weights = weights / (active if normalizer == "active" else len(weights))
            value = weights @ (sums.softplus + softplus) / lam
            pushed = _gradient_at_positives(sums, ranked, weights)
            pulled = weights * (sums.trained + trained)
            gradient = sums.gradient(weights, pushed - pulled)
            term = LossTerm(value.to(gradient.dtype), gradient, ranked.indices)
    return zero_loss(logits) if ranked is None else attach_gradients(logits, term)[0]


def _sum_over_positive_pairs(
    sums: SigmoidSums, ranked: RankedLogits, count_self: bool
) -> Iterator[Tensor]:
    """Sum over the pairs of positives: for each positive u, over the positives v, (P,) each.

    Yields:
        Four tensors: 1 / BC_u, or 0 where A_u is empty; the number of positives v in A_u; the sum
        of softplus(lam d_vu) over these v; the sum of sigmoid(lam d_vu) over those of these v that
        have a gradient.
    """
    (quality,), blocks = ranked.columns, []
    for rows in sums.row_blocks():
        pairs = sums.pairs(rows)
        worse = (quality[None, :] < quality[rows, None]) & (pairs.sigmoid > 0)
        visible = worse.sum(1)
        if not count_self:
            pairs.sigmoid.diagonal(rows.start).zero_()
        constant = sums.false_positives[rows] + pairs.sigmoid.sum(1)
        # Without u itself the constant may underflow. The sum that it divides then underflows, too.
        share = (1 / constant.clamp_min(constants.APE_LEAST[sums.dtype])).masked_fill_(
            sums.visible[rows] + visible == 0, 0
        )
        softplus, trained = ((column * worse).sum(1) for column in (pairs.softplus, pairs.trained))
        blocks.append((share, visible, softplus, trained))
    return map(torch.cat, zip(*blocks, strict=True))


def _gradient_at_positives(sums: SigmoidSums, ranked: RankedLogits, weights: Tensor) -> Tensor:
    """Sum weights_u sigmoid(lam d_vu) over the u with v in A_u, for every positive v; (P,)."""
    (quality,), received = ranked.columns, torch.zeros_like(weights)
    for rows in sums.row_blocks():
        worse = quality[None, :] < quality[rows, None]
        received += weights[rows] @ (sums.pairs(rows).trained * worse)
    return received
