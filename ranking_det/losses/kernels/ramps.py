"""P smoothed steps as one piecewise-linear function, and exact sums of it.

H(x) = clip(x / (2 delta) + 1/2, 0, 1), and [x >= 0] for delta = 0. As functions of a logit x, the P
steps H(x - s_i) bend only at the 2P breakpoints s_i - delta and s_i + delta. Between two of them
every weighted sum of the steps is linear in x. A sum over many x therefore needs only their number
(*mass*) and their sum (*moment*) in each of the K = 2P + 1 intervals. An x in interval k is at or
above exactly k breakpoints.

Worked example: the steps of the two logits s = 1.5 and s = 0 with delta = 1, summed over the three
x = 2, .7 and -2 (the figure is in :mod:`ranking_det.losses.kernels.interval_sums`)::

    breakpoints                -1            .5            1           2.5
    interval            0      |      1      |      2      |      3     |      4
    H(x - 1.5)          0      |      0      |  x/2 - 1/4  |  x/2 - 1/4 |      1
    H(x - 0)            0      |  x/2 + 1/2  |  x/2 + 1/2  |      1     |      1
    x                  -2      |             |     .7      |      2     |
    mass                1      |      0      |      1      |      1     |      0
    moment             -2      |      0      |     .7      |      2     |      0

Sum over x, for each step (:meth:`Ramps.at_each_step`): the mass beyond the ramp, plus slope times
moment plus intercept times mass on the ramp. Both are differences of prefix sums::

    1.5:   0 + (.7 + 2)/2 - (1 + 1)/4 = .85        beyond: interval 4; ramp: intervals 2 and 3
    0:     1 + (0 + .7)/2 + (0 + 1)/2 = 1.85       beyond: 3 and 4; ramp: intervals 1 and 2

Weighted sum over the steps, for each x (:meth:`Ramps.lines`): with the weights 1 for 1.5 and 10 for
0, each interval has one line, slope x + intercept::

    slope               0      |      5      |     5.5     |     .5     |      0
    intercept           0      |      5      |     4.75    |    9.75    |     11
    at x = .7: 5.5 (.7) + 4.75 = 8.6;   at x = 2: .5 (2) + 9.75 = 10.75

>>> ramps = Ramps(torch.tensor([1.5, 0.0], dtype=torch.float64), delta=1.0)
>>> x = torch.tensor([2.0, 0.7, -2.0], dtype=torch.float64)
>>> ramps.edges.tolist(), ramps.interval(x).tolist()
([-1.0, 0.5, 1.0, 2.5], [3, 2, 0])
>>> terms = torch.stack([torch.ones_like(x), x - ramps.center])
>>> mass, moment = ramps.scatter(ramps.interval(x), terms)
>>> mass.tolist()
[1.0, 0.0, 1.0, 1.0, 0.0]
>>> ramps.at_each_step(mass, moment)
tensor([0.8500, 1.8500], dtype=torch.float64)
>>> slope, intercept = ramps.lines(torch.tensor([1.0, 10.0], dtype=torch.float64))
>>> slope.tolist(), intercept.tolist()
([0.0, 5.0, 5.5, 0.5, 0.0], [0.0, 5.0, 4.75, 9.75, 11.0])
"""

import torch
from torch import Tensor


def step(x: Tensor, delta: float) -> Tensor:
    """Smoothed unit step H(x) = clip(x / (2 delta) + 1/2, 0, 1), computed in place.

    The step of AP Loss (Chen et al., CVPR 2019), printed as eq. 6 of Xu et al., CVPR 2022. Unlike
    the paper's eq. 6, H adds the 1/2 that the text implies: without it H would jump at +-delta.

    Args:
        x: float of any shape, differences of logits; overwritten if delta > 0.
        delta: half-width of the ramp, >= 0; 0 is the hard step [x >= 0].

    Returns:
        H(x) in [0, 1], of the shape and dtype of x.
    """
    if delta == 0:
        return (x >= 0).to(x.dtype)
    return x.mul_(0.5 / delta).add_(0.5).clamp_(0, 1)


def split(values: Tensor) -> Tensor:
    """Split numbers into coarse and fine halves, so sums of the coarse halves do not round.

    All coarse halves of a row are multiples of one power of two, so any sum of them is exact.
    Prefix sums can then be subtracted from each other, however large they have grown.

    Args:
        values: (..., n) float64.

    Returns:
        (2, ..., n) float64, the coarse and the fine halves; they add up to ``values``.
    """
    total = values.abs().sum(-1, keepdim=True)
    # Exactly a power of two. torch.ldexp would underflow below 2**-126 with old versions of torch.
    power = torch.where((total > 0) & (total < torch.inf), total / torch.frexp(total).mantissa, 1.0)
    unit = power * 2.0**-52
    coarse = torch.round(values / unit) * unit
    return torch.stack([coarse, values - coarse])


def prefix_sums(values: Tensor) -> Tensor:
    """Prefix sums of each row in two halves, for differences with a single rounding.

    Args:
        values: (..., n) float64.

    Returns:
        (2, ..., n + 1) float64, the sums of the first 0..n values of each half. The difference of
        two entries, added up over the halves, is exact except for one rounding.
    """
    return torch.nn.functional.pad(split(values).cumsum(-1), (1, 0))


def range_sums(values: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Sum ``values[first[i]:last[i]]`` for every i.

    Args:
        values: (n,) float64.
        first: (P,) int64 in [0, n], where each range begins.
        last: (P,) int64 in [first, n], where each range ends.

    Returns:
        (P,) float64.
    """
    prefix = prefix_sums(values)
    return (prefix[:, last] - prefix[:, first]).sum(0)


class Ramps:
    """The smoothed steps H(x - s_i) of P logits s.

    Several rows, (...) below, can be summed in one call, which costs little more than one row.

    Args:
        scores: (P,) float64, the logits s, finite; P > 0.
        delta: half-width of the ramps, >= 0; 0 is the hard step.

    Attributes:
        center: scalar, the mean of the logits. Moments are relative to it, because far from 0 the
            moments of the logits themselves would cancel.
        slope: the slope of each ramp, 1 / (2 delta), or 0 for the hard step.
        edges: (2P,) float64, the breakpoints in ascending order.
    """

    def __init__(self, scores: Tensor, delta: float) -> None:
        self.center = scores.mean()
        self._scores = scores - self.center
        # A hard step has no ramp: its two breakpoints coincide, and no x is ever between them.
        self.slope = 0.5 / delta if delta > 0 else 0.0
        breakpoints = torch.stack([scores - delta, scores + delta])
        self.edges = torch.sort(breakpoints.reshape(-1)).values
        self._score_intervals = self.interval(scores)
        self._bends = self.interval(breakpoints)  # (2, P)

    def interval(self, x: Tensor) -> Tensor:
        """Find the interval of each x by binary search.

        Args:
            x: float of any shape.

        Returns:
            int64 in 0..2P, of the shape of x; 0 for NaN.
        """
        x = x.to(torch.float64).nan_to_num(-torch.inf, torch.inf, -torch.inf)
        return torch.bucketize(x, self.edges, right=True)

    def at_each_step(self, mass: Tensor, moment: Tensor) -> Tensor:
        """Sum H(x - s_i) over all x, for every step i.

        Args:
            mass: (..., K) float64, the sum of the weights of the x in each interval.
            moment: (..., K) float64, the sum of weight times (x - center) in each interval; ignored
                in the first and the last interval.

        Returns:
            (..., P) float64, each equal to the sum over the single x except for rounding.
        """
        # The first and last intervals lie on no ramp, and their moments may be infinite.
        inner = torch.nn.functional.pad(moment[..., 1:-1], (1, 1))
        prefix = prefix_sums(torch.stack([mass, inner]))
        below = prefix[..., self._bends]  # halves, mass and moment, ..., lower and upper, P
        mass_on_ramp, moment_on_ramp = (below[..., 1, :] - below[..., 0, :]).sum(0)
        beyond = (prefix[:, 0, ..., -1:] - below[:, 0, ..., 1, :]).sum(0)
        return (
            beyond
            + self.slope * (moment_on_ramp - mass_on_ramp * self._scores)
            + 0.5 * mass_on_ramp
        )

    def over_steps(self, values: Tensor) -> Tensor:
        """Sum values_j H(s_j - s_i) over the P logits themselves, for every step i.

        Args:
            values: (..., P) float64.

        Returns:
            (..., P) float64.
        """
        terms = torch.stack([values, values * self._scores])
        return self.at_each_step(*self.scatter(self._score_intervals, terms))

    def scatter(self, interval: Tensor, values: Tensor) -> Tensor:
        """Add up values by interval.

        Args:
            interval: (n,) int64 in 0..2P.
            values: (..., n) float64.

        Returns:
            (..., K) float64, the sum of the values in each interval.
        """
        total = values.new_zeros(*values.shape[:-1], len(self.edges) + 1)
        return total.scatter_add_(-1, interval.expand_as(values), values)

    def lines(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Express the sum of weights_i H(x - s_i) over the steps i as a line in each interval.

        Args:
            weights: (P,) float64.

        Returns:
            Slope and intercept, (K,) float64 each: the sum at x is slope x + intercept of the
            interval of x. The slopes of the first and the last interval are exactly 0.
        """
        slopes = weights * self.slope
        intercepts = weights * (0.5 - self.slope * self._scores)
        # The change of slope and intercept at each lower breakpoint, then at each upper one.
        jumps = torch.stack(
            [torch.cat([slopes, -slopes]), torch.cat([intercepts, weights - intercepts])]
        )
        slope, intercept = self.scatter(self._bends.reshape(-1), split(jumps)).cumsum(-1).sum(0)
        # Rounding must not leave a slope in the intervals that reach to infinity.
        slope[0] = slope[-1] = 0
        return slope, intercept - slope * self.center
