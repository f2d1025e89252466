"""AP Loss (Chen et al., CVPR 2019) and the variants of it that APE Loss (Xu et al., 2022) compares.

Equations are those of "Revisiting AP Loss for Dense Object Detection: Adaptive Ranking Pair
Selection" and of its appendix.
"""

import torch
from torch import Tensor
from torch import distributed as dist

from ranking_det.checks import check_at_least, check_choice, check_ranking
from ranking_det.losses.kernels.gradients import Part, attach_gradients, exact_arithmetic, zero_loss
from ranking_det.losses.kernels.interval_sums import IntervalSums
from ranking_det.losses.kernels.ranked_logits import RankedLogits, gather_ranked_logits
from ranking_det.losses.kernels.sigmoid_sums import SigmoidSums


def ap_loss(
    logits: Tensor,
    positives: Tensor,
    *,
    delta: float = 1.0,
    interpolated: bool = True,
    distance: str = "step",
    lam: float = 8.0,
    balance: str = "rank",
    margin: float = 0.25,
    self_count: float = 1.0,
    max_negatives: int | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Raise the precision at each positive: 1 - AP of the ranking, with smoothed ranks.

    With d = s_n - s_i, the error of positive i is the sum of D(d) over the negatives n over a
    balance constant (eq. 8); the loss is its mean. The gradient at n is the sum over i of D(d) over
    the constant (eq. 7), which for the step and the sigmoid is assigned and no derivative.

    Takes O(M log P) time and O(M) memory with the step, otherwise time in the number of pairs with
    d > -4 / lam and memory bounded by a block of them.

    Args:
        logits: (M,) float, raw. Negatives may be infinite: -inf takes no part.
        positives: (P,) int64, unique indices into ``logits``; P may be 0.
        delta: half-width of the step, in logits, >= 0; 0 is the hard step.
        interpolated: replace the precision at each positive by the highest at any of lower logit.
        distance: D, "step" (H, eq. 6), "sigmoid" (of lam d) or "cross_entropy" (softplus(lam d) /
            lam, appendix eq. 1, whose derivative is the sigmoid).
        lam: slope of the sigmoid, > 0.
        balance: the constant, "rank" (rank of i among all, eq. 7) or "negatives" (the number of
            negatives with d > -margin, at least 1; appendix eq. 5, whose T is -margin: unlike the
            paper's text, its code keeps negatives that are a little below the positive).
        margin: see ``balance``, >= 0.
        self_count: what i itself adds to its rank, > 0: 1 in AP Loss; 1/2 is H(0).
        max_negatives: keep only so many negatives of the highest logits (of each worker).
        group: rank the logits of all its workers together. The value is then that of the whole, the
            gradient this worker's slice of the gradient of the whole. Every worker must call.

    Returns:
        A scalar in [0, 1] unless the distance is "cross_entropy" or the balance "negatives"; zero,
        attached to the graph, without positives, NaN if a logit is NaN or a positive infinite.

    Raises:
        ValueError: if a shape, dtype, device, option or value is not as described.

    Example:
        >>> logits = torch.tensor([3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0])
        >>> print(f"{ap_loss(logits, torch.tensor([0, 1, 4, 6])):.6f}")
        0.207143
    """
    check_ranking(logits, positives, delta)
    check_choice("distance", distance, ("step", "sigmoid", "cross_entropy"))
    check_choice("balance", balance, ("rank", "negatives"))
    check_at_least("lam", lam, 0.0, strictly=True)
    check_at_least("margin", margin, 0.0)
    check_at_least("self_count", self_count, 0.0, strictly=True)
    with exact_arithmetic(logits):
        ranked = gather_ranked_logits(logits, positives, [], group, max_negatives)
        if ranked is not None:
            sums = IntervalSums(ranked, delta) if distance == "step" else SigmoidSums(ranked, lam)
            others = sums.over_other_positives(torch.ones_like(ranked.scores))
            constant = self_count + others + sums.false_positives
            if balance == "negatives":
                constant = _count_above(ranked, margin).clamp_min_(1)
            error = sums.false_positives / constant
            lowest = _lowest_error_below(ranked.scores, error) if interpolated else error
            # Where the precision is replaced, the error is shared in the same proportions.
            weights = (lowest / error).masked_fill_(error == 0, 0) / constant / len(error)
            gradient = sums.gradient(weights, -lowest / len(error))
            value = lowest.mean()
            if isinstance(sums, SigmoidSums) and distance == "cross_entropy":
                value = (weights * sums.softplus).sum() / lam
            part = Part(value.to(gradient.dtype), gradient, ranked.places)
    return zero_loss(logits) if ranked is None else attach_gradients(logits, part)[0]


def _count_above(ranked: RankedLogits, margin: float) -> Tensor:
    """The number of negatives n with s_n > s_i - margin, for every positive i."""
    above = torch.nextafter(ranked.scores - margin, torch.full_like(ranked.scores, torch.inf))
    return IntervalSums(ranked._replace(scores=above), delta=0.0).false_positives


def _lowest_error_below(scores: Tensor, error: Tensor) -> Tensor:
    """The running minimum of the errors in ascending order of the logits."""
    order = torch.argsort(scores)
    return torch.empty_like(error).scatter_(0, order, error[order].cummin(0).values)
