"""Average Localization-Recall-Precision (aLRP) Loss (Oksuz et al., NeurIPS 2020)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from ranking_det.checks import check_per_positive, check_ranking
from ranking_det.losses.kernels import constants
from ranking_det.losses.kernels.gradients import (
    LossTerm,
    attach_gradients,
    exact_arithmetic,
    zero_loss,
)
from ranking_det.losses.kernels.interval_sums import IntervalSums
from ranking_det.losses.kernels.ramps import Ramps
from ranking_det.losses.kernels.ranked_logits import gather_ranked_logits


class ALRPLosses(NamedTuple):
    """The two parts of aLRP Loss, each with its own gradient.

    Attributes:
        classification: scalar in [0, 1], which trains the logits.
        localization: scalar >= 0, which trains the boxes.
    """

    classification: Tensor
    localization: Tensor


def alrp_loss(
    logits: Tensor,
    positives: Tensor,
    localization_errors: Tensor,
    *,
    delta: float = 1.0,
    group: dist.ProcessGroup | None = None,
) -> ALRPLosses:
    """Minimize the average localization-recall-precision error (aLRP Loss).

    The error of a positive i is (FP(i) + sum of E_j over i and the positives j above it) / rank(i),
    where FP(i) counts the negatives above i, E_j are localization errors, and rank(i) counts i and
    all entries above it. The loss is the mean over the positives (Oksuz et al., NeurIPS 2020).

    The classification part is the mean of FP(i) / rank(i). It trains the logits by the paper's
    error-driven update: a positive i with FP(i) > 1e-5 receives -(FP(i) + sum of E_j over the
    positives j above it) / rank(i) / P. The negatives above it receive the opposite, shared in
    proportion to H(s_n - s_i). The localization part is the mean of the remaining term. It trains
    the boxes, most strongly the boxes with high logits.

    O(M log P) time and O(M) memory.

    Args:
        logits: (M,) float, raw. Negatives may be infinite; -inf is ignored.
        positives: (P,) int64, unique indices into ``logits``; P may be 0.
        localization_errors: (P,) float >= 0, E of each positive: (1 - IoU) / (1 - tau), or a GIoU
            loss / (2 (1 - tau)), with the IoU threshold tau of the assignment; with gradient.
        delta: half-width of the smoothed step, in logits, >= 0; 0 is the hard step.
        group: rank the logits of all workers of this process group together; every worker must
            call this function. The values are computed over the whole ranking; each worker receives
            its slice of the gradients.

    Returns:
        ``classification``, with a gradient with respect to ``logits``, and ``localization``, with a
        gradient with respect to ``localization_errors``. Without positives, both are zeros attached
        to the graph. Both are NaN if a logit is NaN or a positive is infinite.

    Raises:
        ValueError: a shape, dtype, device or value is not as described.

    Example:
        >>> logits = torch.tensor([3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0])
        >>> errors = torch.tensor([0.1, 0.6, 0.2, 0.9])
        >>> print(f"{alrp_loss(logits, torch.tensor([0, 1, 4, 6]), errors).classification:.6f}")
        0.207143
    """
    check_ranking(logits, positives, delta)
    check_per_positive("localization_errors", localization_errors, positives, high=torch.inf)
    with exact_arithmetic(logits):
        ranked = gather_ranked_logits(logits, positives, [localization_errors], group)
        if ranked is not None:
            (errors,), count = ranked.columns, len(ranked.scores)
            sums = IntervalSums(ranked, delta)
            false_positives = sums.false_positives
            positives_above, errors_above = sums.over_other_positives(
                torch.stack([torch.ones_like(errors), errors])
            )
            rank = 1 + positives_above + false_positives
            share = (errors_above + false_positives) / rank
            share = share.masked_fill_(false_positives <= constants.ALRP_EPSILON, 0) / count
            # The negatives share it in proportion to H. Where this is 0 / 0, the weight is 0.
            weights = (share / false_positives).masked_fill_(share == 0, 0)
            logit_gradient = sums.gradient(weights, -share)
            error_gradient = inverse_ranks_below(ranked.scores, rank, 0.0) / count
            localization_value = (errors * error_gradient).sum()
            error_gradient = error_gradient.to(logit_gradient.dtype)
            precision_error = (false_positives / rank).mean()
    if ranked is None:
        return ALRPLosses(zero_loss(logits), zero_loss(localization_errors))
    classification = LossTerm(precision_error.to(logit_gradient.dtype), logit_gradient)
    localization = LossTerm(
        localization_value.to(logit_gradient.dtype), error_gradient[ranked.local]
    )
    return ALRPLosses(
        *attach_gradients(logits, classification),
        *attach_gradients(localization_errors, localization),
    )


def inverse_ranks_below(scores: Tensor, rank: Tensor, delta: float) -> Tensor:
    """Sum H(s_k - s_i) / rank(i) over the positives i, for every positive k.

    This is the weight of each positive's localization error in aLRP Loss.

    Args:
        scores: (P,) float64, the logits of the positives, finite; P > 0.
        rank: (P,) float64 > 0, the rank of each positive.
        delta: half-width of the smoothed step H, in logits, >= 0; 0 is the hard step.

    Returns:
        (P,) float64.
    """
    # over_steps sums over the logits above each logit. With the signs reversed, these are the
    # logits below it.
    return Ramps(-scores, delta).over_steps(1 / rank)
