"""Sums of smoothed steps between all M logits and P positives, without the P x M matrix.

What AP, aLRP and Rank & Sort need of the negatives n are, for each positive i, the false
positives FP(i) = sum over n of H(s_n - s_i), and for each n the gradient, the sum over i of
w_i H(s_n - s_i). With the breakpoints of :mod:`ranking_det.losses.kernels.ramps` both are exact and
cost O(M log P) time. On two CPU cores the binary search of each logit costs as much as a whole
focal loss, so a uniform grid answers for nearly all: in a cell without breakpoint the interval is
known.

A logit's *slot* is its cell if that has no breakpoint; beyond the cells there is one slot for each
interval, found by search.
"""

import torch
from torch import Tensor

from ranking_det.losses.kernels import constants
from ranking_det.losses.kernels.collectives import sum_over_workers
from ranking_det.losses.kernels.ramps import Ramps
from ranking_det.losses.kernels.ranked_logits import RankedLogits


class IntervalSums:
    """All pairwise sums that a ranking loss needs of its logits.

    Args:
        ranked: M logits and P > 0 positives; with a process group the sums run over the positives
            and negatives of all its workers, each of which must build this.
        delta: half-width of the step, >= 0.

    Attributes:
        false_positives: (P,) float64; NaN if a logit is NaN or a positive infinite.

    Example:
        Five logits, the positives 1.5 and 0, delta = 1. The breakpoints -1, .5, 1 and 2.5 cut the
        line into five intervals, which hold the negatives -2, none, .5, 2 and none: a step is 0
        below both its breakpoints, 1 above both, and linear between them. FP(1.5) = H(.5) + H(-1)
        + H(-3.5) = .75 + 0 + 0, and FP(0) = H(2) + H(.5) + H(-2) = 1 + .75 + 0. With weights 1 and
        10, the negative 2 receives .75 + 10, and .5 receives 0 + 7.5.

        >>> from ranking_det.losses.kernels.ranked_logits import gather_ranked_logits
        >>> logits, positives = torch.tensor([2.0, 1.5, 0.5, 0.0, -2.0]), torch.tensor([1, 3])
        >>> sums = IntervalSums(gather_ranked_logits(logits, positives, []), delta=1.0)
        >>> sums.false_positives
        tensor([0.7500, 1.7500], dtype=torch.float64)
        >>> weights = torch.tensor([1.0, 10.0], dtype=torch.float64)
        >>> sums.gradient(weights, at_positives=torch.zeros(2, dtype=torch.float64))
        tensor([10.7500,  0.0000,  7.5000,  0.0000,  0.0000])
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
        # Integers as wide as the gradient, which takes over their memory.
        width = torch.int64 if self._dtype == torch.float64 else torch.int32
        self._slots = torch.empty(len(self._logits), dtype=width, device=self._logits.device)
        self.false_positives = self._count_negatives()

    def _build_grid(self, count: int, on_gpu: bool) -> None:
        """Lay a grid over the breakpoints and find the interval of every slot."""
        edges = self._ramps.edges
        intervals = torch.arange(len(edges) + 1, device=edges.device)
        self._cells = 0 if on_gpu else min(constants.MAX_CELLS, 64 + count // 16)
        if self._cells:
            # Breakpoints that nearly coincide must not make the scale overflow.
            least = 1e-6 * edges.abs().max().clamp_min(1)
            scale = (self._cells - 3) / torch.maximum(edges[-1] - edges[0], least)
            # The cells at the two ends stay free of breakpoints: most logits lie there.
            self._shift = (1.5 - edges[0] * scale).to(self._dtype)
            self._scale = scale.to(self._dtype)
            occupied = self._cell(edges.to(self._dtype))
            self._searched = torch.zeros(self._cells, dtype=torch.bool, device=edges.device)
            self._searched[occupied] = True
            below = torch.bincount(occupied, minlength=self._cells).cumsum(0)
            intervals = torch.cat([below, intervals])
        self._interval_of_slot = intervals

    def _cell(self, x: Tensor) -> Tensor:
        # Never decreases in x, also when rounded: a cell without breakpoint lies in one interval.
        cell = torch.mul(x, self._scale).add_(self._shift).clamp_(0, self._cells - 1)
        # NaN becomes any integer.
        return cell.int().clamp_(0, self._cells - 1)

    def _slot(self, x: Tensor) -> Tensor:
        if not self._cells:
            return self._ramps.interval(x)
        slot = self._cell(x)
        search = torch.nonzero(self._searched.index_select(0, slot)).squeeze(1)
        slot[search] = (self._cells + self._ramps.interval(x[search])).int()
        return slot.long()

    def _count_negatives(self) -> Tensor:
        """Sort all logits of this worker into slots; return the false positives."""
        positives = self._ranked.positives
        slots = len(self._interval_of_slot)
        copies = constants.COPIES_ON_GPU if self._logits.is_cuda else 1
        sums = torch.zeros(2, copies * slots, dtype=torch.float64, device=self._logits.device)
        size = max([len(positives)] + [len(self._logits[chunk]) for chunk in self._chunks])
        # Row 0 counts, row 1 adds up; one call, because rows run in parallel.
        terms = torch.ones(2, size, dtype=torch.float64, device=self._logits.device)

        def add(x: Tensor) -> Tensor:
            slot = at = self._slot(x)
            if copies > 1:
                at = slot + slots * (torch.arange(len(x), device=x.device) % copies)
            sums.scatter_add_(1, at.expand(2, -1), terms[:, : len(x)])
            return slot

        for chunk in self._chunks:
            x = self._logits[chunk].to(self._dtype)
            terms[1, : len(x)] = x
            self._slots[chunk] = add(x)
        # All were counted, and the positives are taken back: cheaper than a copy without them.
        x = self._logits[positives].to(self._dtype)
        terms[0], terms[1, : len(x)] = -1, -x
        add(x)
        by_slot = sums.view(2, copies, slots).sum(1)
        mass, moment = self._ramps.scatter(self._interval_of_slot, by_slot)
        # NaN is in interval 0, and of the infinities only the negative.
        invalid = torch.isnan(moment[0]) | self._invalid
        packed = torch.stack([mass, moment.masked_fill(mass == 0, 0)])
        packed[1, 0] = torch.where(invalid, torch.nan, 0.0)
        packed[1, -1] = 0
        mass, moment = sum_over_workers(packed, self._ranked.group)
        centered = moment - self._ramps.center * mass
        counted = self._ramps.at_each_step(mass, centered).clamp_min_(0)
        self._poison = moment[0]
        return counted + self._poison

    def over_positives(self, values: Tensor) -> Tensor:
        """Sum values_j H(s_j - s_i) over all positives j, i included, for every positive i.

        Both are (..., P): several sums at once cost little more than one.
        """
        return self._ramps.over_steps(values) + self._poison

    def over_other_positives(self, values: Tensor) -> Tensor:
        """The same without j = i."""
        return self.over_positives(values) - self._at_itself * values

    def gradient(self, weights: Tensor, at_positives: Tensor) -> Tensor:
        """The gradient at this worker's logits; to be called once.

        Args:
            weights: (P,) float64; a negative n receives the sum over i of weights_i H(s_n - s_i).
            at_positives: (P,) float64, what the positives receive.

        Returns:
            (M,) in at least single precision.
        """
        slope, intercept = (
            line.index_select(0, self._interval_of_slot) for line in self._ramps.lines(weights)
        )
        # Beyond the outer breakpoints infinity times slope 0 would be NaN. The bounds are numbers,
        # since those that are tensors take five times as long.
        largest = torch.finfo(self._logits.dtype).max
        # Each chunk overwrites the slots that it was read from.
        gradient = self._slots.view(self._dtype)
        for chunk in self._chunks:
            slot = self._slots[chunk]
            x = self._logits[chunk].clamp(-largest, largest).double()
            line = intercept.index_select(0, slot)
            gradient[chunk] = line.addcmul_(slope.index_select(0, slot), x)
        local = at_positives[self._ranked.local]
        gradient[self._ranked.positives] = local.to(self._dtype)
        return gradient
