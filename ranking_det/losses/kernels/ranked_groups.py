"""Compute many small rankings in one call, such as one for each class of each image.

There are G rankings. Their positives are concatenated, (P,), and a second vector (P,) gives the
ranking of each positive. The negatives are (G, N), padded with -inf, which is ignored. Nothing here
synchronizes host and GPU.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ranking_det.losses.kernels import constants
from ranking_det.row_blocks import blocks


class Bins(NamedTuple):
    """The negatives of each ranking, grouped into bins.

    Attributes:
        means: (G, bins) float, the mean of each bin, with the graph of the negatives; -inf for an
            empty bin.
        counts: (G, bins) float, the number of negatives in each bin.
        member: (G, N) int64, the bin of each negative; arbitrary where the negative is -inf.
    """

    means: Tensor
    counts: Tensor
    member: Tensor

    def share(self, at_means: Tensor) -> Tensor:
        """Back-propagate a gradient from the means of the bins to the negatives.

        Args:
            at_means: (G, bins) float, the gradient with respect to the means.

        Returns:
            (G, N) float, the gradient with respect to the negatives; arbitrary where a negative is
            -inf.
        """
        return (at_means / self.counts.clamp_min(1)).gather(1, self.member)


def bin_negatives(low: Tensor, bins: int, equal_count: bool = False) -> Bins:
    """Group each ranking's negatives into bins of equal width, or of equal count.

    Args:
        low: (G, N) float, the negatives of each ranking; -inf is ignored.
        bins: the number of bins, >= 1.
        equal_count: True for bins of (nearly) equally many negatives, False for bins of equal width
            between the lowest and the highest negative.

    Returns:
        The bins of each ranking.
    """
    detached = low.detach()
    absent = detached == -torch.inf
    if equal_count:
        # In ascending order the absent negatives come first.
        num_absent = absent.sum(1, keepdim=True)
        rank = detached.argsort(1).argsort(1) - num_absent
        member = rank * bins // (low.shape[1] - num_absent).clamp_min(1)
    else:
        high = detached.amax(1, keepdim=True)
        lowest = detached.masked_fill(absent, torch.inf).amin(1, keepdim=True)
        width = (high - lowest).clamp_min(torch.finfo(detached.dtype).tiny)
        member = ((detached - lowest) / width * bins).long()
    member = member.clamp_(0, bins - 1)
    zeros = low.new_zeros(len(low), bins)
    counts = zeros.scatter_add(1, member, (~absent).to(low.dtype))
    sums = zeros.scatter_add(1, member, low.masked_fill(absent, 0))
    return Bins(torch.where(counts > 0, sums / counts.clamp_min(1), -torch.inf), counts, member)


def rank_groups(
    high: Tensor, group: Tensor, low: Tensor, distance: str, reweight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Rank each positive above the negatives of its ranking, for G rankings in one call.

    The loss of each ranking is RankDetNet's eq. 2 and 3; see ``global_ranking_loss``.

    Args:
        high: (P,) float32 or float64, the scores of the positives.
        group: (P,) int64, the ranking of each positive, 0..G-1.
        low: (G, N) of the same dtype, the scores of the negatives; -inf is ignored.
        distance: "exp", "sigmoid" or "logistic".
        reweight: True to weight the pairs of a ranking by their share in its loss, False to weight
            them equally.

    Returns:
        The value (G,) of each ranking, 0 without a pair, and its gradients with respect to ``high``
        (P,) and ``low`` (G, N).
    """
    rank = _separable if distance == "exp" else _pairwise
    value, at_high, at_low = rank(high, group, low, distance, reweight)
    absent = low == -torch.inf
    # Without negatives the weights are 0 / 0.
    has_no_negatives = absent.all(1)
    return (
        value.masked_fill(has_no_negatives, 0),
        at_high.masked_fill(has_no_negatives[group], 0),
        at_low.masked_fill(absent, 0),
    )


def _counts(high: Tensor, group: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    """Count the positives and the negatives of each ranking, (G,) float each."""
    positives = high.new_zeros(len(low)).index_add_(0, group, torch.ones_like(high))
    return positives, (low != -torch.inf).sum(1).to(high.dtype)


def _log_sums(x: Tensor, group: Tensor, count: int) -> Tensor:
    """Compute the logsumexp (G,) over each ranking's x (P,)."""
    highest = x.new_full((count,), -torch.inf).scatter_reduce_(0, group, x, "amax")
    return (
        highest + torch.zeros_like(highest).index_add_(0, group, (x - highest[group]).exp_()).log_()
    )


def _separable(
    high: Tensor, group: Tensor, low: Tensor, distance: str, reweight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the values and both gradients for l = e^x, which is a product of two factors."""
    count = len(low)
    # Each factor is the mean of e^x with weights proportional to e^x, or the plain mean.
    if reweight:
        high_total, low_total = _log_sums(-high, group, count), low.logsumexp(1)
    else:
        high_total, low_total = (total.log() for total in _counts(high, group, low))
    order = 2 if reweight else 1
    at_high = -order * high - high_total[group]
    at_low = order * low - low_total[:, None]
    high_factor, low_factor = _log_sums(at_high, group, count), at_low.logsumexp(1)
    value, at_high, at_low = (
        exponent.clamp(max=constants.MAX_EXPONENT).exp()
        for exponent in (
            high_factor + low_factor,
            at_high + low_factor[group],
            at_low + high_factor[:, None],
        )
    )
    return value, -at_high, at_low


def _pairwise(
    high: Tensor, group: Tensor, low: Tensor, distance: str, reweight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the values and both gradients in blocks of pairs."""
    total, squares = (high.new_zeros(len(low)) for _ in range(2))
    at_high, at_low = torch.zeros_like(high), torch.zeros_like(low)
    for block in blocks(len(high), low.shape[1], constants.PAIRS):
        x = low[group[block]] - high[block, None]
        sigmoid = torch.sigmoid(x)
        if distance == "sigmoid":
            loss, slope = sigmoid, sigmoid * (1 - sigmoid)
        else:
            loss, slope = -functional.logsigmoid(-x), sigmoid
        total.index_add_(0, group[block], loss.sum(1))
        squares.index_add_(0, group[block], (loss * loss).sum(1))
        pull = loss * slope if reweight else slope
        at_high[block] = -pull.sum(1)
        at_low.index_add_(0, group[block], pull)
    if reweight:
        # If all losses of a ranking underflow to 0, their gradients are 0 as well.
        total.clamp_min_(torch.finfo(total.dtype).tiny)
        return squares / total, at_high / total[group], at_low / total[:, None]
    positives, negatives = _counts(high, group, low)
    pairs = (positives * negatives).clamp_min_(1)
    return total / pairs, at_high / pairs[group], at_low / pairs[:, None]
