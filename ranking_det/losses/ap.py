"""AP Loss (Chen et al., CVPR 2019), and its variants in the APE Loss paper (Xu et al., CVPR 2022).

Equation numbers refer to the latter paper, "Revisiting AP Loss for Dense Object Detection: Adaptive
Ranking Pair Selection", and to its appendix.
"""

import torch
from torch import Tensor
from torch import distributed as dist

from ranking_det.checks import check_at_least, check_choice, check_ranking
from ranking_det.losses.kernels.gradients import (
    LossTerm,
    attach_gradients,
    exact_arithmetic,
    zero_loss,
)
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
    """Minimize 1 - average precision (AP) of the ranking, with smoothed ranks.

    With d = s_n - s_i, the error of a positive i is the sum of D(d) over the negatives n, divided
    by a balance constant (eq. 8). The loss is the mean error, which for the default balance is the
    mean of 1 - precision (eq. 5). The gradient of a negative n is the sum over the positives i of
    D(d) / constant / P, and each positive receives minus its error / P (eq. 7). For the step and
    the sigmoid this gradient is assigned: it is not the derivative of the value.

    The step takes O(M log P) time and O(M) memory. With the other distances the time grows with the
    number of pairs with d > -4 / lam, and the memory with M and the size of a block of pairs.

    Args:
        logits: (M,) float, raw. Negatives may be infinite; -inf is ignored.
        positives: (P,) int64, unique indices into ``logits``; P may be 0.
        delta: half-width of the smoothed step, in logits, >= 0; 0 is the hard step.
        interpolated: replace the precision at each positive by the highest precision at this or any
            positive with a lower logit.
        distance: D, one of "step" (H(d), eq. 6), "sigmoid" (sigmoid(lam d)) or "cross_entropy"
            (softplus(lam d) / lam, appendix eq. 1, with the sigmoid as derivative).
        lam: slope of the sigmoid, > 0.
        balance: the constant, "rank" (rank of i among all entries, eq. 7) or "negatives" (number of
            negatives with d > -margin, at least 1; appendix eq. 5 with T = -margin). Unlike the
            paper, which prints T > 0, this counts negatives that are a little below the positive:
            the paper's code does so too.
        margin: see ``balance``, in logits, >= 0.
        self_count: the amount that i adds to its own rank, > 0: 1 in AP Loss, while H(0) is 1/2.
        max_negatives: rank only the negatives with the highest logits, this many on each worker;
            None for all.
        group: rank the logits of all workers of this process group together; every worker must
            call this function. The value is computed over the whole ranking; each worker receives
            its slice of the gradient.

    Returns:
        A scalar, in [0, 1] unless the distance is "cross_entropy" or the balance "negatives".
        Without positives it is a zero attached to the graph. It is NaN if a logit is NaN or a
        positive is infinite.

    Raises:
        ValueError: a shape, dtype, device, option or value is not as described.

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
            positives_above = sums.over_other_positives(torch.ones_like(ranked.scores))
            constant = self_count + positives_above + sums.false_positives
            if balance == "negatives":
                constant = _count_above(ranked, margin).clamp_min_(1)
            error = sums.false_positives / constant
            lowest = _lowest_error_below(ranked.scores, error) if interpolated else error
            # Interpolation lowers the error; each negative keeps its proportion of it.
            weights = (lowest / error).masked_fill_(error == 0, 0) / constant / len(error)
            gradient = sums.gradient(weights, -lowest / len(error))
            value = lowest.mean()
            if isinstance(sums, SigmoidSums) and distance == "cross_entropy":
                value = (weights * sums.softplus).sum() / lam
            term = LossTerm(value.to(gradient.dtype), gradient, ranked.indices)
    return zero_loss(logits) if ranked is None else attach_gradients(logits, term)[0]


def _count_above(ranked: RankedLogits, margin: float) -> Tensor:
    """Count the negatives n with s_n > s_i - margin, for every positive i."""
    # The hard step counts logits equal to the threshold, too; the next larger number excludes them.
    threshold = torch.nextafter(ranked.scores - margin, torch.full_like(ranked.scores, torch.inf))
    return IntervalSums(ranked._replace(scores=threshold), delta=0.0).false_positives


def _lowest_error_below(scores: Tensor, error: Tensor) -> Tensor:
    """Compute the running minimum of the errors in ascending order of the logits."""
    order = torch.argsort(scores)
    return torch.empty_like(error).scatter_(0, order, error[order].cummin(0).values)
