"""Rank & Sort Loss (Oksuz, Cam, Akbas and Kalkan, ICCV 2021).

The loss has two goals: every positive is above every negative (ranking), and the positives are in
the order of their quality (sorting). Equation numbers refer to the paper's supplement.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from ranking_det.checks import check_ranking
from ranking_det.losses.kernels import constants
from ranking_det.losses.kernels.gradients import (
    LossTerm,
    attach_gradients,
    exact_arithmetic,
    zero_loss,
)
from ranking_det.losses.kernels.interval_sums import IntervalSums
from ranking_det.losses.kernels.ramps import step
from ranking_det.losses.kernels.ranked_logits import RankedLogits, gather_ranked_logits


class RankSortLosses(NamedTuple):
    """The two parts of Rank & Sort Loss, each with a separate gradient with respect to the logits.

    Attributes:
        ranking: scalar in [0, 1].
        sorting: scalar in [0, 1].
    """

    ranking: Tensor
    sorting: Tensor


def rank_sort_loss(
    logits: Tensor,
    positives: Tensor,
    quality: Tensor,
    *,
    delta: float = 0.5,
    group: dist.ProcessGroup | None = None,
) -> RankSortLosses:
    """Rank positives above negatives and sort the positives by their localization quality.

    The ranking error of a positive i is FP(i) / rank(i): the number of negatives above i divided by
    the number of all entries above i, including i itself. Its sorting error is the mean of
    1 - quality over i and the positives above it, minus the same mean over only those with at least
    the quality of i. "Above" is the smoothed step H, so i itself counts H(0). Both parts are means
    over the positives.

    The gradients come from the paper's identity update (eq. S7 for negatives, eq. S16 for
    positives). They are not derivatives of the values. Unlike the paper, ``positives`` says which
    entries are positive, not a quality above 0: a positive whose box does not overlap its object
    stays positive.

    O(M log P + P^2) time and O(M) memory.

    Args:
        logits: (M,) float, raw. Negatives may be infinite; -inf is ignored.
        positives: (P,) int64, unique indices into ``logits``; P may be 0.
        quality: (P,) float in [0, 1], the IoU of each positive with its object. No gradient.
        delta: half-width of the smoothed step, in logits, >= 0; 0 is the hard step.
        group: rank the logits of all workers of this process group together; every worker must
            call this function. The values are computed over the whole ranking; each worker receives
            its slice of the gradient.

    Returns:
        ``ranking``, the mean ranking error, and ``sorting``, the mean sorting error. Without
        positives, both are zeros attached to the graph. Both are NaN if a logit is NaN or a
        positive is infinite.

    Raises:
        ValueError: a shape, dtype, device or value is not as described.

    Example:
        >>> logits = torch.tensor([3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0])
        >>> positives = torch.tensor([0, 1, 4, 6])
        >>> quality = torch.tensor([0.9, 0.4, 0.8, 0.1])
        >>> losses = rank_sort_loss(logits, positives, quality, delta=0.0)
        >>> print(f"{losses.ranking:.6f} {losses.sorting:.6f}")
        0.207143 0.037500
    """
    check_ranking(logits, positives, delta, quality=quality)
    with exact_arithmetic(logits):
        ranked = gather_ranked_logits(logits, positives, [quality], group)
        terms = [] if ranked is None else _ranking_and_sorting(ranked, positives, delta)
    if not terms:
        return RankSortLosses(zero_loss(logits), zero_loss(logits))
    return RankSortLosses(*attach_gradients(logits, *terms))


def _ranking_and_sorting(ranked: RankedLogits, positives: Tensor, delta: float) -> list[LossTerm]:
    """Compute the value and the gradient of both parts; the ranking part comes first."""
    (quality,), count = ranked.columns, len(ranked.scores)
    sums = IntervalSums(ranked, delta)
    true_rank, error = sums.over_positives(torch.stack([torch.ones_like(quality), 1 - quality]))
    rank = true_rank + sums.false_positives
    ranking = sums.false_positives / rank
    has_no_gradient = sums.false_positives <= constants.RANK_SORT_EPSILON
    dense = sums.gradient(
        (1 / rank).masked_fill(has_no_gradient, 0) / count,
        -ranking.masked_fill(has_no_gradient, 0) / count,
    )
    sorting, received = _sorting(ranked.scores, quality, true_rank, error, delta)
    sparse = ((received - sorting) / count)[ranked.local]
    return [
        LossTerm(ranking.mean().to(dense.dtype), dense),
        LossTerm(sorting.mean().to(dense.dtype), sparse.to(dense.dtype), positives),
    ]


def _sorting(
    scores: Tensor, quality: Tensor, true_rank: Tensor, error: Tensor, delta: float
) -> tuple[Tensor, Tensor]:
    """Compute each positive's sorting error, and what it receives of other positives' errors.

    The *misranked* positives of i are above i and have a strictly lower quality; they share the
    error of i. Pairs are visited in blocks of rows i. The positives are in descending order of
    quality, so a block can skip the columns before it.
    """
    order = torch.argsort(quality, descending=True)
    # Equal qualities have equal positions. Integers are faster to compare.
    position = torch.searchsorted(quality[order].flip(0), quality[order], out_int32=True)
    scores, true_rank, error = scores[order], true_rank[order], error[order]
    # Each row: the amounts that a positive adds to the rank and the error of a positive below it.
    terms = torch.stack([torch.ones_like(quality), 1 - quality[order]], dim=1)
    sorting, received = torch.zeros_like(error), torch.zeros_like(error)
    rows = max(1, constants.PAIRS // len(order))
    for start in range(0, len(order), rows):
        block = slice(start, start + rows)
        misranked = step(scores[None, start:] - scores[block, None], delta)
        misranked.masked_fill_(position[None, start:] >= position[block, None], 0)
        misranked_rank, misranked_error = (misranked @ terms[start:]).unbind(1)
        # l_S - l_S* over a common denominator, because both are far larger than their difference.
        best_rank, best_error = true_rank[block] - misranked_rank, error[block] - misranked_error
        sorting[block] = (misranked_error * best_rank - best_error * misranked_rank) / (
            true_rank[block] * best_rank
        )
        share = (sorting[block] / misranked_rank).masked_fill_(
            misranked_rank <= constants.RANK_SORT_EPSILON, 0
        )
        received[start:] += share @ misranked
    inverse_order = torch.argsort(order)
    return sorting[inverse_order], received[inverse_order]
