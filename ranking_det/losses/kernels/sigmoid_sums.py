"""Sum sigmoids and softplus over pairs of M logits and P positives, in blocks of bounded memory.

APE Loss (Xu et al., CVPR 2022, eq. 9 and 10) and the sigmoid variants of AP Loss need three sums,
with x = lam (s_n - s_i):

- for each positive i, the sums over the negatives n of sigmoid(x) and of softplus(x);
- for each negative n, the sum over the positives i of w_i sigmoid(x).

The sigmoid is curved everywhere, so mass and moment of an interval are not enough, unlike for the
step. Every pair must be visited, except where the sigmoid is 0 or 1 to the last bit. The
negatives are therefore sorted in descending order. Seen from a positive, they fall into three
ranges: *certain* negatives far above, which count 1 each; a *stretch* of visited negatives; and
*cutoff* negatives far below, which count 0.

Worked example: the logits 2, 1.5, .7, 0 and -2, where 1.5 and 0 are the positives, with lam = 2.
Pairs with x <= -4 are cut off::

    negatives, descending            2         .7         -2
    x from the positive 1.5          1       -1.6      -7 cut off
    x from the positive 0            4        1.4      -4 cut off

    sigmoid(x), from 1.5         .7311      .1680          0       sum  .8990
    sigmoid(x), from 0           .9820      .8022          0       sum 1.7842
    softplus(x), from 1.5       1.3133      .1839          0       sum 1.4972
    softplus(x), from 0         4.0181     1.6204          0       sum 5.6386

    gradient, weights 1 and 10  .7311 + 9.8201   .1680 + 8.0218   0

Positives with neighboring logits see nearly the same stretch, so they are visited together: a
block of at most 64 positives within 4 / lam of each other, and all negatives that one of them sees.
Its sigmoids cost no exponential per pair, since e^-x = e^(lam s_i) e^(-lam s_n) is an outer
product.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ranking_det.losses.kernels import constants
from ranking_det.losses.kernels.collectives import sum_over_workers
from ranking_det.losses.kernels.ramps import range_sums
from ranking_det.losses.kernels.ranked_logits import RankedLogits
from ranking_det.row_blocks import blocks

# The published AP and APE losses leave out pairs with a lower x.
CUTOFF = -4.0
# With a lower cutoff the sums are in double precision: in single precision sigmoids underflow.
LOWEST_IN_SINGLE_PRECISION = -60.0
# Pairs with a lower x are always left out: their sigmoid is below 1e-260.
LOWEST_X = -600.0
# From this x on, a sigmoid in single precision is 1. torch limits the binary cross entropy of such
# a negative to 100.
SATURATION = 16.635532333438686
SATURATED_SOFTPLUS = 100.0


class Pairs(NamedTuple):
    """Pairs of B positives i (rows) with all P positives j (columns); 0 for pairs that are cut off.

    Attributes:
        sigmoid: (B, P) float64, sigmoid(x) with x = lam (s_j - s_i).
        softplus: (B, P) float64, softplus(x).
        trained: (B, P) float64, the derivative of softplus(x) that is used as gradient: sigmoid(x),
            or 0 for saturated pairs.
    """

    sigmoid: Tensor
    softplus: Tensor
    trained: Tensor


class SigmoidSums:
    """All sums of sigmoids and softplus over pairs of logits that a ranking loss needs.

    The sums are NaN if a logit is NaN or a positive is infinite.

    Args:
        ranked: M logits and P > 0 positives. With a process group the sums run over the positives
            and negatives of all its workers, and every worker must create this object.
        lam: slope of the sigmoid, > 0.
        cutoff: leave out pairs with x <= cutoff, < 0; None to leave out none.
        saturate: True to compute like the cross entropy of single-precision sigmoids: a pair with a
            sigmoid of 1 has a softplus of 100 and no gradient.

    Attributes:
        dtype: the dtype of the arithmetic on pairs, float32 or float64.
        false_positives: (P,) float64, sums of sigmoid(x) over the negatives.
        trained: (P,) float64, sums of the derivatives of softplus(x) that are used as gradient.
        softplus: (P,) float64, sums of softplus(x) over the negatives.
        visible: (P,) int64, the number of this worker's negatives that are not cut off.

    Example:
        The five logits of the module's worked example:

        >>> from ranking_det.losses.kernels.ranked_logits import gather_ranked_logits
        >>> logits, positives = torch.tensor([2.0, 1.5, 0.7, 0.0, -2.0]), torch.tensor([1, 3])
        >>> sums = SigmoidSums(gather_ranked_logits(logits, positives, []), lam=2.0)
        >>> sums.false_positives, sums.visible
        (tensor([0.8990, 1.7842], dtype=torch.float64), tensor([2, 2]))
        >>> sums.softplus
        tensor([1.4972, 5.6386], dtype=torch.float64)
        >>> weights = torch.tensor([1.0, 10.0], dtype=torch.float64)
        >>> sums.gradient(weights, at_positives=torch.zeros(2, dtype=torch.float64))
        tensor([10.5512,  0.0000,  8.1898,  0.0000,  0.0000])
    """

    def __init__(
        self,
        ranked: RankedLogits,
        lam: float,
        cutoff: float | None = CUTOFF,
        saturate: bool = False,
    ) -> None:
        self._ranked, self._lam, self._saturate = ranked, lam, saturate
        # Pairs with a very low x have sigmoids that are too small for single precision.
        needs_double = cutoff is None or cutoff < LOWEST_IN_SINGLE_PRECISION
        self.dtype = torch.float64 if needs_double else ranked.dtype
        self._cutoff = LOWEST_X if cutoff is None else cutoff
        self._scores, order = torch.sort(torch.nan_to_num(ranked.scores, 0, 0, 0), descending=True)
        self._inverse_order = torch.argsort(order)
        self._order = order
        self._sort_negatives()
        self._find_stretches()
        self.visible = self._stretch_ends[self._inverse_order]
        certain = self._stretch_starts[self._inverse_order] if saturate else 0
        self.false_positives, self.softplus = self._sum()
        self.trained = self.false_positives - certain

    def _sort_negatives(self) -> None:
        """Sort the negatives that some positive sees in descending order."""
        logits = self._ranked.logits.clone()
        logits[self._ranked.positives] = -torch.inf
        lowest = self._scores[-1] + self._cutoff / self._lam
        indices = torch.nonzero(logits > lowest).squeeze(1)
        values, order = torch.sort(logits[indices].double(), descending=True)
        self._negatives = indices[order]
        self._infinite = torch.isinf(values)
        largest = torch.finfo(self._ranked.dtype).max
        self._negative_scores = values.masked_fill(self._infinite, largest)
        self._nan_or_zero = torch.where(torch.isnan(logits).any(), torch.nan, values.new_zeros(()))

    def _find_stretches(self) -> None:
        """Find where each positive's sigmoid stops being 1 and where it becomes 0."""
        single = self.dtype == torch.float32
        saturation = SATURATION if self._saturate else 20.0 if single else 40.0
        ascending = -self._negative_scores
        highest = self._scores + saturation / self._lam
        self._stretch_starts = torch.searchsorted(ascending, -highest, right=True)
        lowest = self._scores + self._cutoff / self._lam
        self._stretch_ends = torch.searchsorted(ascending, -lowest)
        self._seen_by_all: dict[int, tuple[int, int]] = {}
        self._plan = list(self._blocks())

    def _blocks(self) -> Iterator[tuple[slice, slice]]:
        """Yield blocks: rows of similar positives, and columns of negatives that some row sees."""
        scores = (self._scores * self._lam).tolist()
        first, last = self._stretch_starts.tolist(), self._stretch_ends.tolist()
        start = 0
        while start < len(scores):
            stop, end = start + 1, min(len(scores), start + constants.SIGMOID_ROWS)
            while stop < end and scores[start] - scores[stop] <= constants.SIGMOID_SPREAD:
                stop += 1
            width = max(1, constants.PAIRS // (stop - start))
            for column in range(first[start], last[stop - 1], width):
                yield slice(start, stop), slice(column, min(column + width, last[stop - 1]))
            self._seen_by_all[start] = (first[stop - 1], last[start])
            start = stop

    def _block(self, rows: slice, columns: slice, fill: float) -> Tensor:
        """Compute the sigmoids of a block, and ``fill`` where a row does not see a column."""
        scores = self._scores[rows]
        # e^-x is an outer product, so no pair costs an exponential: 1.25 times as fast as
        # torch.sigmoid on 64 x 4096 pairs (one thread of an Intel Xeon).
        row_factor = torch.exp(self._lam * (scores - scores[-1])).to(self.dtype)
        distances = scores[-1] - self._negative_scores[columns]
        column_factor = torch.exp(self._lam * distances).to(self.dtype)
        sigmoid = torch.outer(row_factor, column_factor).add_(1).reciprocal_()
        return self._fill_unseen(sigmoid, rows, columns, fill)

    def _fill_unseen(self, block: Tensor, rows: slice, columns: slice, fill: float) -> Tensor:
        """Overwrite the pairs outside of each row's stretch with ``fill``, in place."""
        # All rows see the columns from ``begin`` to ``end``.
        begin, end = self._seen_by_all[rows.start]
        for start, stop in (
            (columns.start, min(begin, columns.stop)),
            (max(begin, end, columns.start), columns.stop),
        ):
            if start < stop:
                index = torch.arange(start, stop, device=block.device)
                is_early = index < self._stretch_starts[rows, None]
                unseen = is_early | (index >= self._stretch_ends[rows, None])
                entries = block[:, start - columns.start : stop - columns.start]
                entries.masked_fill_(unseen, fill)
        return block

    def _sum(self) -> tuple[Tensor, Tensor]:
        """Sum sigmoid and softplus over the negatives of all workers, (P,) each."""
        ones, logs = torch.zeros_like(self._scores), torch.zeros_like(self._scores)
        for rows, columns in self._plan:
            sigmoid = self._block(rows, columns, fill=1.0)
            # softplus(x) = max(x, 0) - log max(sigmoid(x), 1 - sigmoid(x)) is accurate where the
            # sigmoid is close to 0 or 1, and the sum of max(x, 0) needs only a sum of logits.
            logs[rows] += torch.minimum(sigmoid, 1 - sigmoid).neg_().log1p_().sum(1)
            ones[rows] += self._fill_unseen(sigmoid, rows, columns, 0.0).sum(1)
        begin = self._stretch_starts if self._saturate else torch.zeros_like(self._stretch_starts)
        num_above = torch.searchsorted(-self._negative_scores, -self._scores, right=True)
        total = range_sums(self._negative_scores.masked_fill(self._infinite, 0), begin, num_above)
        softplus = self._lam * (total - (num_above - begin) * self._scores) - logs
        softplus += SATURATED_SOFTPLUS * begin
        if not self._saturate:
            softplus += torch.where(self._infinite.any(), torch.inf, 0.0)
        invalid = torch.isfinite(self._ranked.scores).all().logical_not()
        packed = torch.stack([ones + self._stretch_starts, softplus]) + self._nan_or_zero
        ones, softplus = sum_over_workers(packed, self._ranked.group)
        nan_or_zero = torch.where(invalid, torch.nan, 0.0)
        order = self._inverse_order
        return (ones + nan_or_zero)[order], (softplus + nan_or_zero)[order]

    def row_blocks(self) -> list[slice]:
        """Split the positives into blocks for :meth:`pairs`, so memory stays bounded.

        Returns:
            Slices that cover 0..P.
        """
        return list(blocks(len(self._scores), len(self._scores), constants.PAIRS))

    def pairs(self, rows: slice) -> Pairs:
        """Compute the pairs of some positives with all positives.

        Args:
            rows: the positives i, a slice of 0..P from :meth:`row_blocks`.

        Returns:
            The pairs of the B positives of the slice with all P.
        """
        scores = self._ranked.scores
        x = (scores[None, :] - scores[rows, None]).mul_(self._lam)
        cut = x <= self._cutoff
        sigmoid = torch.sigmoid(x).masked_fill_(cut, 0)
        softplus = -torch.nn.functional.logsigmoid(-x).masked_fill_(cut, 0)
        if not self._saturate:
            return Pairs(sigmoid, softplus, sigmoid)
        certain = x >= SATURATION
        return Pairs(
            sigmoid,
            softplus.masked_fill_(certain, SATURATED_SOFTPLUS),
            sigmoid.masked_fill(certain, 0),
        )

    def over_other_positives(self, values: Tensor) -> Tensor:
        """Sum values_j sigmoid(lam (s_j - s_i)) over the positives j other than i, for every i.

        Args:
            values: (P,) float64.

        Returns:
            (P,) float64.
        """
        sums = torch.cat([self.pairs(rows).sigmoid @ values for rows in self.row_blocks()])
        return sums - 0.5 * values

    def gradient(self, weights: Tensor, at_positives: Tensor) -> Tensor:
        """Compute the gradient with respect to this worker's logits.

        Args:
            weights: (P,) float64. A negative n receives the sum over i of weights_i sigmoid(x).
            at_positives: (P,) float64, the gradient of each positive.

        Returns:
            (M,) in at least single precision.
        """
        ranked, weights = self._ranked, weights[self._order]
        received = weights.new_zeros(len(self._negative_scores) + 1)
        if not self._saturate:
            # Each positive sends its whole weight to the certain negatives above its stretch.
            received.scatter_add_(0, self._stretch_starts, weights)
            received = received.flip(0).cumsum(0).flip(0)[1:]
        received = received[: len(self._negative_scores)]
        for rows, columns in self._plan:
            sigmoid = self._block(rows, columns, fill=0.0)
            received[columns] += weights[rows].to(sigmoid.dtype) @ sigmoid
        gradient = torch.zeros(len(ranked.logits), dtype=ranked.dtype, device=weights.device)
        gradient[self._negatives] = received.to(ranked.dtype)
        gradient[ranked.positives] = at_positives[ranked.local].to(ranked.dtype)
        return gradient
