"""P smoothed steps as one piecewise-linear function, and exact sums of it.

H(x) = clip(x / (2 delta) + 1/2, 0, 1), and [x >= 0] for delta = 0. Seen from a logit x, the P steps
H(x - s_i) bend at the 2P breakpoints s_i - delta and s_i + delta only. Between two of them every
weighted sum of the steps is linear in x, and every sum over x follows from how many x there are
(mass) and what they add up to (moment). With K = 2P + 1 intervals, interval k holds the x that are
not below exactly k breakpoints.
"""

import torch
from torch import Tensor


def step(x: Tensor, delta: float) -> Tensor:
    """H(x), in place."""
    if delta == 0:
        return (x >= 0).to(x.dtype)
    return x.mul_(0.5 / delta).add_(0.5).clamp_(0, 1)


def split(values: Tensor) -> Tensor:
    """Split float64 (..., n) into coarse and fine halves (2, ..., n) whose sums do not round.

    All coarse halves of a row are multiples of one power of two, so that any sum of them is exact;
    prefix sums may then be subtracted from each other however much they have grown.
    """
    total = values.abs().sum(-1, keepdim=True)
    # Exactly a power of two. torch.ldexp would underflow below 2**-126 with old versions of torch.
    power = torch.where((total > 0) & (total < torch.inf), total / torch.frexp(total).mantissa, 1.0)
    unit = power * 2.0**-52
    coarse = torch.round(values / unit) * unit
    return torch.stack([coarse, values - coarse])


def prefix_sums(values: Tensor) -> Tensor:
    """Sums of the first 0..n values of each row (..., n), in two halves to subtract: (2, ..., n+1).

    The difference of two entries, added over the halves, is exact but for one rounding.
    """
    return torch.nn.functional.pad(split(values).cumsum(-1), (1, 0))


def range_sums(values: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Sum ``values[first[i]:last[i]]`` for every i; (n,) and twice (P,) to (P,)."""
    prefix = prefix_sums(values)
    return (prefix[:, last] - prefix[:, first]).sum(0)


class Ramps:
    """The steps H(x - s_i) of P logits s, P > 0.

    Sums may be taken of several rows at once, (...) below, which costs little more than one.

    Attributes:
        center: the mean of the logits, which moments are relative to: far from 0, those of the
            logits themselves would cancel.
        edges: (2P,) float64, the breakpoints in ascending order.
    """

    def __init__(self, scores: Tensor, delta: float) -> None:
        self.center = scores.mean()
        self._scores = scores - self.center
        # A step has no ramp: both its breakpoints fall together and no x is ever between them.
        self.slope = 0.5 / delta if delta > 0 else 0.0
        breakpoints = torch.stack([scores - delta, scores + delta])
        self.edges = torch.sort(breakpoints.reshape(-1)).values
        self._score_intervals = self.interval(scores)
        self._bends = self.interval(breakpoints)  # (2, P)

    def interval(self, x: Tensor) -> Tensor:
        """The interval 0..2P of each x; 0 for NaN."""
        x = x.to(torch.float64).nan_to_num(-torch.inf, torch.inf, -torch.inf)
        return torch.bucketize(x, self.edges, right=True)

    def at_each_step(self, mass: Tensor, moment: Tensor) -> Tensor:
        """Sum H(x - s_i) over all x, for every step i.

        Args:
            mass: (..., K) the sum of the weights of the x in each interval.
            moment: (..., K) the sum of weight times (x - center); ignored in the outermost two.

        Returns:
            (..., P); each is within rounding of the sum over x, one at a time.
        """
        # The outermost intervals lie on no ramp, and their moments may be infinite.
        inner = torch.nn.functional.pad(moment[..., 1:-1], (1, 1))
        prefix = prefix_sums(torch.stack([mass, inner]))
        below = prefix[..., self._bends]  # halves, mass and moment, ..., lower and upper, P
        on_ramp, lifted = (below[..., 1, :] - below[..., 0, :]).sum(0)
        beyond = (prefix[:, 0, ..., -1:] - below[:, 0, ..., 1, :]).sum(0)
        return beyond + self.slope * (lifted - on_ramp * self._scores) + 0.5 * on_ramp

    def over_steps(self, values: Tensor) -> Tensor:
        """Sum values_j H(s_j - s_i) over the P logits themselves, for every i; both (..., P)."""
        terms = torch.stack([values, values * self._scores])
        return self.at_each_step(*self.scatter(self._score_intervals, terms))

    def scatter(self, interval: Tensor, values: Tensor) -> Tensor:
        """Add up values (..., n) by interval (n,); (..., K)."""
        total = values.new_zeros(*values.shape[:-1], len(self.edges) + 1)
        return total.scatter_add_(-1, interval.expand_as(values), values)

    def lines(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of weights_i H(x - s_i) over the steps i, as a function of x.

        Args:
            weights: (P,) float64.

        Returns:
            Slope and intercept (K,) in each interval; the slopes of the outermost two are 0.
        """
        steep = weights * self.slope
        rising = weights * (0.5 - self.slope * self._scores)
        # What sets in at each step's lower breakpoint, and at its upper one.
        jumps = torch.stack([torch.cat([steep, -steep]), torch.cat([rising, weights - rising])])
        slope, intercept = self.scatter(self._bends.reshape(-1), split(jumps)).cumsum(-1).sum(0)
        # Rounding must not leave a slope there: these intervals reach to infinity.
        slope[0] = slope[-1] = 0
        return slope, intercept - slope * self.center
