"""Sums of sigmoids between M logits and P positives, in blocks of bounded memory.

With x = lam (s_n - s_i), the sums over the negatives n of sigmoid(x) and of softplus(x) for every
positive i, and the sum over i of w_i sigmoid(x) for every n. The sigmoid bends everywhere, so
unlike for the step every pair must be visited, but for those where it is 0 or 1 to the last bit:
the negatives are sorted, and each block of positives visits one stretch of them.
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

# Below it, in units of 1 / lam, the published AP and APE losses leave a pair out.
CUTOFF = -4.0
FAR = -60.0
# And below it any pair: its sigmoid is 1e-260.
LOWEST = -600.0
# From here on a sigmoid in single precision is 1, and the cross entropy of it stops at 100.
SATURATION = 16.635532333438686
SATURATED = 100.0


class Pairs(NamedTuple):
    """What some positives i (rows) find at all positives j (columns); 0 where a pair is cut off.

    Attributes:
        sigmoid: sigmoid(x), with x = lam (s_j - s_i).
        softplus: softplus(x).
        trained: its derivative.
    """

    sigmoid: Tensor
    softplus: Tensor
    trained: Tensor


class SigmoidSums:
    """All pairwise sums that a loss with the sigmoid needs of its logits.

    Args:
        ranked: M logits and P > 0 positives; with a process group the sums run over the positives
            and negatives of all its workers, each of which must build this.
        lam: the slope, > 0.
        cutoff: leave out pairs with x <= cutoff; None for none.
        saturate: do as a cross entropy of single-precision sigmoids: pairs with a sigmoid of 1
            have a softplus of 100, and no gradient.

    Attributes:
        dtype: that of the arithmetic on pairs.
        false_positives: (P,) float64, sums of sigmoid(x).
        trained: (P,) float64, sums of what of it is a derivative of softplus(x).
        softplus: (P,) float64, sums of softplus(x).
        visible: (P,) int64, the number of this worker's negatives that are not cut off.
        The sums are NaN if a logit is NaN or a positive infinite.

    Example:
        Five logits, the positives 1.5 and 0, lam = 2. With x = 2 (s_n - s_i), the positive 1.5 sees
        the negatives 2 and .5 at x = 1 and -2; -2 is at -7 and cut off. Its false positives are
        sigmoid(1) + sigmoid(-2) = .7311 + .1192. The positive 0 sees them at x = 4 and 1, and -2 at
        -4, which is cut off too: sigmoid(4) + sigmoid(1) = .9820 + .7311.

        >>> from ranking_det.losses.kernels.ranked_logits import gather_ranked_logits
        >>> logits, positives = torch.tensor([2.0, 1.5, 0.5, 0.0, -2.0]), torch.tensor([1, 3])
        >>> sums = SigmoidSums(gather_ranked_logits(logits, positives, []), lam=2.0)
        >>> sums.false_positives, sums.visible
        (tensor([0.8503, 1.7131], dtype=torch.float64), tensor([2, 2]))
    """

    def __init__(
        self,
        ranked: RankedLogits,
        lam: float,
        cutoff: float | None = CUTOFF,
        saturate: bool = False,
    ) -> None:
        self._ranked, self._lam, self._saturate = ranked, lam, saturate
        # Without a cut-off x reaches far down, below what single precision can hold of a sigmoid;
        # and still further down, everything is 0.
        # Where pairs far below count, so do sigmoids that single precision has not.
        far = cutoff is None or cutoff < FAR
        self.dtype = torch.float64 if far else ranked.dtype
        self._cutoff = LOWEST if cutoff is None else cutoff
        self._scores, order = torch.sort(torch.nan_to_num(ranked.scores, 0, 0, 0), descending=True)
        self._back = torch.argsort(order)
        self._order = order
        self._sort_negatives()
        self._find_stretches()
        self.visible = self._last[self._back]
        certain = self._first[self._back] if saturate else 0
        self.false_positives, self.softplus = self._sum()
        self.trained = self.false_positives - certain

    def _sort_negatives(self) -> None:
        """Sort the negatives that anyone can see in descending order."""
        logits = self._ranked.logits.clone()
        logits[self._ranked.positives] = -torch.inf
        lowest = self._scores[-1] + self._cutoff / self._lam
        seen = torch.nonzero(logits > lowest).squeeze(1)
        values, order = torch.sort(logits[seen].double(), descending=True)
        self._seen = seen[order]
        self._infinite = torch.isinf(values)
        self._values = values.masked_fill(self._infinite, torch.finfo(self._ranked.dtype).max)
        self._poison = torch.where(torch.isnan(logits).any(), torch.nan, values.new_zeros(()))

    def _find_stretches(self) -> None:
        """Find where each positive's sigmoid stops being 1 and where it becomes 0."""
        single = self.dtype == torch.float32
        one = SATURATION if self._saturate else 20.0 if single else 40.0
        ascending = -self._values
        self._first = torch.searchsorted(ascending, -(self._scores + one / self._lam), right=True)
        lowest = self._scores + self._cutoff / self._lam
        self._last = torch.searchsorted(ascending, -lowest)
        self._seen_by_all: dict[int, tuple[int, int]] = {}
        self._plan = list(self._blocks())

    def _blocks(self) -> Iterator[tuple[slice, slice]]:
        """Rows of alike positives, and columns of negatives of which a row sees some."""
        scores = (self._scores * self._lam).tolist()
        first, last = self._first.tolist(), self._last.tolist()
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

    def _block(self, rows: slice, columns: slice, hidden: float) -> Tensor:
        """The sigmoids of a block, and ``hidden`` where a row does not see a column."""
        scores = self._scores[rows]
        # e^-x is a product of two factors, so that no pair costs an exponential.
        up = torch.exp(self._lam * (scores - scores[-1])).to(self.dtype)
        down = torch.exp(self._lam * (scores[-1] - self._values[columns])).to(self.dtype)
        sigmoid = torch.outer(up, down).add_(1).reciprocal_()
        return self._hide(sigmoid, rows, columns, hidden)

    def _hide(self, block: Tensor, rows: slice, columns: slice, hidden: float) -> Tensor:
        """Overwrite, in place, what is outside of each row's stretch."""
        # All rows see the columns in the middle.
        begin, end = self._seen_by_all[rows.start]
        for start, stop in (
            (columns.start, min(begin, columns.stop)),
            (max(begin, end, columns.start), columns.stop),
        ):
            if start < stop:
                at = torch.arange(start, stop, device=block.device)
                unseen = (at < self._first[rows, None]) | (at >= self._last[rows, None])
                part = block[:, start - columns.start : stop - columns.start]
                part.masked_fill_(unseen, hidden)
        return block

    def _sum(self) -> tuple[Tensor, Tensor]:
        """The sums over the negatives of all workers, in the order of the ranked logits."""
        ones, logs = torch.zeros_like(self._scores), torch.zeros_like(self._scores)
        for rows, columns in self._plan:
            sigmoid = self._block(rows, columns, hidden=1.0)
            # softplus(x) = max(x, 0) - log max(sigmoid(x), 1 - sigmoid(x)): no digit is lost where
            # the sigmoid is close to 0 or 1, and the sum of max(x, 0) is one of logits.
            logs[rows] += torch.minimum(sigmoid, 1 - sigmoid).neg_().log1p_().sum(1)
            ones[rows] += self._hide(sigmoid, rows, columns, 0.0).sum(1)
        begin = self._first if self._saturate else torch.zeros_like(self._first)
        above = torch.searchsorted(-self._values, -self._scores, right=True)
        total = range_sums(self._values.masked_fill(self._infinite, 0), begin, above)
        softplus = self._lam * (total - (above - begin) * self._scores) - logs
        softplus += SATURATED * begin
        if not self._saturate:
            softplus += torch.where(self._infinite.any(), torch.inf, 0.0)
        invalid = torch.isfinite(self._ranked.scores).all().logical_not()
        packed = torch.stack([ones + self._first, softplus]) + self._poison
        ones, softplus = sum_over_workers(packed, self._ranked.group)
        poison = torch.where(invalid, torch.nan, 0.0)
        return (ones + poison)[self._back], (softplus + poison)[self._back]

    def row_blocks(self) -> list[slice]:
        """Blocks of positives for :meth:`pairs`, of bounded memory."""
        return list(blocks(len(self._scores), len(self._scores), constants.PAIRS))

    def pairs(self, rows: slice) -> Pairs:
        """The pairs of some positives with all of them."""
        scores = self._ranked.scores
        x = (scores[None, :] - scores[rows, None]).mul_(self._lam)
        cut = x <= self._cutoff
        sigmoid = torch.sigmoid(x).masked_fill_(cut, 0)
        softplus = -torch.nn.functional.logsigmoid(-x).masked_fill_(cut, 0)
        if not self._saturate:
            return Pairs(sigmoid, softplus, sigmoid)
        certain = x >= SATURATION
        return Pairs(
            sigmoid, softplus.masked_fill_(certain, SATURATED), sigmoid.masked_fill(certain, 0)
        )

    def over_other_positives(self, values: Tensor) -> Tensor:
        """Sum values_j sigmoid(x_ij) over the positives j other than i, for every positive i."""
        sums = torch.cat([self.pairs(rows).sigmoid @ values for rows in self.row_blocks()])
        return sums - 0.5 * values

    def gradient(self, weights: Tensor, at_positives: Tensor) -> Tensor:
        """The gradient at this worker's logits.

        Args:
            weights: (P,) float64; a negative n receives the sum over i of weights_i sigmoid(x).
            at_positives: (P,) float64, what the positives receive.

        Returns:
            (M,) in at least single precision.
        """
        ranked, weights = self._ranked, weights[self._order]
        received = weights.new_zeros(len(self._values) + 1)
        if not self._saturate:
            # Each positive reaches all negatives up to where its stretch begins.
            received.scatter_add_(0, self._first, weights)
            received = received.flip(0).cumsum(0).flip(0)[1:]
        received = received[: len(self._values)]
        for rows, columns in self._plan:
            sigmoid = self._block(rows, columns, hidden=0.0)
            received[columns] += weights[rows].to(sigmoid.dtype) @ sigmoid
        gradient = torch.zeros(len(ranked.logits), dtype=ranked.dtype, device=weights.device)
        gradient[self._seen] = received.to(ranked.dtype)
        gradient[ranked.positives] = at_positives[ranked.local].to(ranked.dtype)
        return gradient
