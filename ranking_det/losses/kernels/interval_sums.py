"""Count false positives and sum gradients over all M logits and P positives in O(M log P) time.

AP, aLRP and Rank & Sort Loss need two sums over pairs:

- for each positive i the false positives, FP(i) = sum over the negatives n of H(s_n - s_i);
- for each negative n its gradient, the sum over i of w_i H(s_n - s_i).

H(x) = clip(x / (2 delta) + 1/2, 0, 1) is the smoothed step of
:func:`ranking_det.losses.kernels.ramps.step`. The weight w_i is what positive i sends to a negative
that is fully above it: 1 / (P rank(i)) in the ranking part of Rank & Sort Loss. No P x M matrix is
made, and the sums are exact.

Worked example: five logits, two positives (P), three negatives (n), delta = 1. Seen from a negative
at x, the step of the positive s rises from s - delta to s + delta, its two *breakpoints*. The 2P
breakpoints cut the line into 2P + 1 *intervals*::

    logits         -2                      0       .7       1.5    2
                 --n-----------------------P-------n---------P-----n-------------
    breakpoints                |                 |     |                 |
                              -1                .5     1                2.5
    intervals          0       |        1        |  2  |        3        |   4

    H(x - 0)                              ___...---'''''''''''''''''''''''''''''
                 _________________...---'''
    H(x - 1.5)                                              ___...---'''''''''''
                 ___________________________________...---'''

    grid cells       0      |  1  |  2  |  3  |  4  |  5  |  6  |  7  |  8  |  9
    searched                   *                 *     *                 *

These are the sums that the code returns, written out over the pairs:

    FP(1.5) = H(2 - 1.5) + H(.7 - 1.5) + H(-2 - 1.5) = .75 + .1 + 0 = .85
    FP(0)   = H(2 - 0) + H(.7 - 0) + H(-2 - 0)       = 1 + .85 + 0  = 1.85

With the weights 1 for the positive 1.5 and 10 for the positive 0, the negative 2 receives
.75 + 10 = 10.75, and .7 receives .1 + 8.5 = 8.6.

The code visits no pairs. Inside an interval every step is linear in x, so the number of its
negatives and their sum suffice: :mod:`ranking_det.losses.kernels.ramps` continues the example and
computes the same four numbers from them. The rest of this page is about finding the interval of
each logit fast.

A binary search in the breakpoints finds the interval of a logit. On two CPU cores, the search for
all logits costs as much as a whole focal loss. A uniform *grid* therefore replaces it for nearly
all logits: a cell without a breakpoint lies within one interval, so only logits in a cell with one
(a star above) need the search. Among the negatives that is only .7: 2 is in cell 7, and cell 7 is
in interval 3. (The figure has 10 cells; the code makes 64 to 32,768.)
Without the grid, AP Loss takes 1.9 times as long, forward and backward (1,000 positives, 1,000,000
logits from the middle of training, one thread of an Intel Xeon).

The *slot* of a logit is its cell if the cell has no breakpoint. After the cells there is one slot
for each interval, for the logits that need the search. On a GPU there is no grid, and every logit
is searched for.
"""

import torch
from torch import Tensor

from ranking_det.losses.kernels import constants
from ranking_det.losses.kernels.collectives import sum_over_workers
from ranking_det.losses.kernels.ramps import Ramps
from ranking_det.losses.kernels.ranked_logits import RankedLogits


class IntervalSums:
    """All sums of smoothed steps over pairs of logits that a ranking loss needs.

    Args:
        ranked: M logits and P > 0 positives. With a process group the sums run over the positives
            and negatives of all its workers, and every worker must create this object.
        delta: half-width of the step, in logits, >= 0; 0 is the hard step.

    Attributes:
        false_positives: (P,) float64, the sum of H(s_n - s_i) over the negatives n. NaN if a logit
            is NaN or a positive is infinite.

    Example:
        The five logits of the module's worked example:

        >>> from ranking_det.losses.kernels.ranked_logits import gather_ranked_logits
        >>> logits, positives = torch.tensor([2.0, 1.5, 0.7, 0.0, -2.0]), torch.tensor([1, 3])
        >>> sums = IntervalSums(gather_ranked_logits(logits, positives, []), delta=1.0)
        >>> sums.false_positives
        tensor([0.8500, 1.8500], dtype=torch.float64)
        >>> weights = torch.tensor([1.0, 10.0], dtype=torch.float64)
        >>> sums.gradient(weights, at_positives=torch.zeros(2, dtype=torch.float64))
        tensor([10.7500,  0.0000,  8.6000,  0.0000,  0.0000])
    """

    def __init__(self, ranked: RankedLogits, delta: float) -> None:
        self._ranked = ranked
        self._logits, self._dtype = ranked.logits, ranked.dtype
        self._at_itself = 0.5 if delta > 0 else 1.0
        size = constants.CHUNK_ON_GPU if ranked.logits.is_cuda else constants.CHUNK
        starts = range(0, len(ranked.logits), size)
        self._chunks = [slice(start, start + size) for start in starts]
        self._invalid = ~torch.isfinite(ranked.scores).all()
        self._ramps = Ramps(torch.nan_to_num(ranked.scores, 0.0, 0.0, 0.0), delta)
        self._build_grid(len(self._logits), on_gpu=self._logits.is_cuda)
        # Integers as wide as the gradient, because the gradient reuses their memory.
        width = torch.int64 if self._dtype == torch.float64 else torch.int32
        self._slots = torch.empty(len(self._logits), dtype=width, device=self._logits.device)
        self.false_positives = self._count_negatives()

    def _build_grid(self, count: int, on_gpu: bool) -> None:
        """Lay a grid over the breakpoints and find the interval of every slot."""
        edges = self._ramps.edges
        intervals = torch.arange(len(edges) + 1, device=edges.device)
        self._cells = 0 if on_gpu else min(constants.MAX_CELLS, 64 + count // 16)
        if self._cells:
            # The scale must not overflow where all breakpoints nearly coincide.
            smallest_range = 1e-6 * edges.abs().max().clamp_min(1)
            scale = (self._cells - 3) / torch.maximum(edges[-1] - edges[0], smallest_range)
            # The first and last cells have no breakpoints: most logits lie there.
            self._shift = (1.5 - edges[0] * scale).to(self._dtype)
            self._scale = scale.to(self._dtype)
            occupied = self._cell(edges.to(self._dtype))
            self._searched = torch.zeros(self._cells, dtype=torch.bool, device=edges.device)
            self._searched[occupied] = True
            below = torch.bincount(occupied, minlength=self._cells).cumsum(0)
            intervals = torch.cat([below, intervals])
        self._interval_of_slot = intervals

    def _cell(self, x: Tensor) -> Tensor:
        """Return the grid cell of each x, as int32; any cell for NaN."""
        # Non-decreasing in x even after rounding, so a cell without a breakpoint lies within one
        # interval.
        cell = torch.mul(x, self._scale).add_(self._shift).clamp_(0, self._cells - 1)
        # The second clamp is for NaN, which becomes an arbitrary integer.
        return cell.int().clamp_(0, self._cells - 1)

    def _slot(self, x: Tensor) -> Tensor:
        """Return the slot of each x, as int64."""
        if not self._cells:
            return self._ramps.interval(x)
        slot = self._cell(x)
        search = torch.nonzero(self._searched.index_select(0, slot)).squeeze(1)
        slot[search] = (self._cells + self._ramps.interval(x[search])).int()
        return slot.long()

    def _count_negatives(self) -> Tensor:
        """Sort all logits of this worker into slots and return the false positives."""
        positives = self._ranked.positives
        slots = len(self._interval_of_slot)
        copies = constants.COPIES_ON_GPU if self._logits.is_cuda else 1
        sums = torch.zeros(2, copies * slots, dtype=torch.float64, device=self._logits.device)
        size = max([len(positives)] + [len(self._logits[chunk]) for chunk in self._chunks])
        # Row 0 is the count, row 1 the sum. One scatter for both, because its rows run in parallel.
        terms = torch.ones(2, size, dtype=torch.float64, device=self._logits.device)

        def add(x: Tensor) -> Tensor:
            slot = position = self._slot(x)
            if copies > 1:
                position = slot + slots * (torch.arange(len(x), device=x.device) % copies)
            sums.scatter_add_(1, position.expand(2, -1), terms[:, : len(x)])
            return slot

        for chunk in self._chunks:
            x = self._logits[chunk].to(self._dtype)
            terms[1, : len(x)] = x
            self._slots[chunk] = add(x)
        # Count all logits, then subtract the positives: cheaper than a copy without them.
        x = self._logits[positives].to(self._dtype)
        terms[0], terms[1, : len(x)] = -1, -x
        add(x)
        by_slot = sums.view(2, copies, slots).sum(1)
        mass, moment = self._ramps.scatter(self._interval_of_slot, by_slot)
        # NaN and -inf are in interval 0, +inf is in the last one.
        invalid = torch.isnan(moment[0]) | self._invalid
        packed = torch.stack([mass, moment.masked_fill(mass == 0, 0)])
        packed[1, 0] = torch.where(invalid, torch.nan, 0.0)
        packed[1, -1] = 0
        mass, moment = sum_over_workers(packed, self._ranked.group)
        centered = moment - self._ramps.center * mass
        count = self._ramps.at_each_step(mass, centered).clamp_min_(0)
        self._nan_or_zero = moment[0]
        return count + self._nan_or_zero

    def over_positives(self, values: Tensor) -> Tensor:
        """Sum values_j H(s_j - s_i) over all positives j, including i, for every positive i.

        Args:
            values: (..., P) float64. Several rows cost little more than one.

        Returns:
            (..., P) float64.
        """
        return self._ramps.over_steps(values) + self._nan_or_zero

    def over_other_positives(self, values: Tensor) -> Tensor:
        """Sum values_j H(s_j - s_i) over the positives j other than i, for every positive i.

        Args:
            values: (..., P) float64. Several rows cost little more than one.

        Returns:
            (..., P) float64.
        """
        return self.over_positives(values) - self._at_itself * values

    def gradient(self, weights: Tensor, at_positives: Tensor) -> Tensor:
        """Compute the gradient with respect to this worker's logits.

        Call it only once, because it overwrites the slots.

        Args:
            weights: (P,) float64. A negative n receives the sum over i of weights_i H(s_n - s_i).
            at_positives: (P,) float64, the gradient of each positive.

        Returns:
            (M,) in at least single precision.
        """
        slope, intercept = (
            line.index_select(0, self._interval_of_slot) for line in self._ramps.lines(weights)
        )
        # Clamp, because infinity times slope 0 would be NaN beyond the outer breakpoints. The
        # bounds are numbers: with tensors as bounds it takes five times as long.
        largest = torch.finfo(self._logits.dtype).max
        # Each chunk of the gradient overwrites the slots that it is computed from.
        gradient = self._slots.view(self._dtype)
        for chunk in self._chunks:
            slot = self._slots[chunk]
            x = self._logits[chunk].clamp(-largest, largest).double()
            line = intercept.index_select(0, slot)
            gradient[chunk] = line.addcmul_(slope.index_select(0, slot), x)
        local = at_positives[self._ranked.local]
        gradient[self._ranked.positives] = local.to(self._dtype)
        return gradient
