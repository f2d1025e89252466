"""Mixtures of two Gaussians in one dimension, many at a time.

Expectation maximisation (Dempster et al., 1977) on all rows of a matrix at once; each row comes out
as scikit-learn's GaussianMixture fits it alone. G is the number of rows, C of samples in a row.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ranking_det.checks import check_that

TOLERANCE = 1e-3
"""A row ends when its mean log-likelihood, in nats, changes by less."""
MAX_ITERATIONS = 100
CHECK_EVERY = 8
"""Iterations between two looks at whether all rows have converged: each makes a GPU wait."""


class TwoGaussians(NamedTuple):
    """One mixture per row, in float64.

    Attributes:
        means: (G, 2); component 0 started from the smallest sample, 1 from the largest.
        variances: (G, 2), above 0.
        weights: (G, 2), above 0, of sum 1.
        converged: (G,) bool, whether the fit ended before MAX_ITERATIONS.
    """

    means: Tensor
    variances: Tensor
    weights: Tensor
    converged: Tensor


def fit_two_gaussians(values: Tensor, exists: Tensor, *, reg_covar: float = 1e-6) -> TwoGaussians:
    """Fit a mixture to the samples of each row.

    The start is means at the smallest and the largest sample, equal weights and variances of 1. A
    row ends when its mean log-likelihood changes by less than TOLERANCE; the others go on without
    it.

    Args:
        values: (G, C) float, finite where ``exists``.
        exists: (G, C) bool, which entries are samples; a row without any has a mixture around 0.
        reg_covar: added to the variances, so that equal samples have one; > 0.

    Returns:
        The mixtures, on the device of ``values``, or on the CPU if it has no float64.

    Raises:
        ValueError: the shapes or dtypes are not as described.

    >>> values = torch.tensor([[0.0, 0.2, 5.0, 5.2]])
    >>> fit_two_gaussians(values, torch.ones_like(values, dtype=torch.bool)).means
    tensor([[0.1000, 5.1000]], dtype=torch.float64)
    """
    _check(values, exists)
    values = in_float64(values)
    exists = exists.to(values.device)
    x = values.masked_fill(~exists, 0.0)
    present = exists.to(x.dtype)
    count = present.sum(dim=1)
    share = present / count.clamp(min=1)[:, None]
    state = _start(values, exists)
    bound = torch.full_like(count, -torch.inf)
    active = count > 0
    for step in range(MAX_ITERATIONS):
        densities = _log_densities(x, state)
        odds = densities[1] - densities[0]
        membership = torch.stack([-odds, odds]).sigmoid_().mul_(present)
        state = torch.where(active, _maximize(x, membership, reg_covar), state)
        previous, bound = bound, (_log_sum(densities, odds) * share).sum(dim=1)
        active = active & ((bound - previous).abs() >= TOLERANCE)
        if step % CHECK_EVERY == CHECK_EVERY - 1 and not bool(active.any()):
            break
    means, variances, weights = state.transpose(1, 2)
    return TwoGaussians(means, variances, weights, ~active)


def classify(values: Tensor, mixture: TwoGaussians) -> tuple[Tensor, Tensor]:
    """The likeliest component of each value, and the likelihood of each value.

    Args:
        values: (G, C) float; row g belongs to mixture g.
        mixture: of G rows.

    Returns:
        (G, C) int64, 0 or 1 (0 if both are as likely), and (G, C) float64, the logarithm of the
        density of the mixture; on the device of the mixture.
    """
    state = torch.stack([mixture.means, mixture.variances, mixture.weights]).transpose(1, 2)
    densities = _log_densities(in_float64(values), state)
    odds = densities[1] - densities[0]
    return (odds > 0).long(), _log_sum(densities, odds)


def in_float64(values: Tensor) -> Tensor:
    """``values`` in float64, on the CPU if their device has none."""
    if values.device.type == "mps":
        values = values.cpu()
    return values.to(torch.float64)


def _start(values: Tensor, exists: Tensor) -> Tensor:
    """Means, variances and weights (3, 2, G) before the first iteration."""
    # One more column, so that a row without samples has limits too.
    padded = functional.pad(values, (0, 1))
    outside = functional.pad(~exists, (0, 1), value=True)
    empty = outside.all(dim=1)
    low = padded.masked_fill(outside, torch.inf).amin(dim=1).masked_fill(empty, 0.0)
    high = padded.masked_fill(outside, -torch.inf).amax(dim=1).masked_fill(empty, 0.0)
    means = torch.stack([low, high])
    return torch.stack([means, torch.ones_like(means), torch.full_like(means, 0.5)])


def _log_densities(x: Tensor, state: Tensor) -> Tensor:
    """Logarithms (2, G, C) of weight times density of x (G, C) under a state (3, 2, G)."""
    means, variances, weights = state
    constant = weights.log() - 0.5 * (variances.log() + math.log(2 * math.pi))
    scaled = (x - means[..., None]) * variances.rsqrt()[..., None]
    return torch.addcmul(constant[..., None], scaled, scaled, value=-0.5)


def _log_sum(densities: Tensor, odds: Tensor) -> Tensor:
    """Logarithm (G, C) of the sum of both densities (2, G, C), given the second less the first."""
    # torch.logaddexp takes twice as long; logsigmoid starts threads for what is not worth them.
    return torch.maximum(densities[0], densities[1]) + functional.softplus(-odds.abs())


def _maximize(x: Tensor, membership: Tensor, reg_covar: float) -> Tensor:
    """Means, variances and weights (3, 2, G) of samples x (G, C) with membership (2, G, C)."""
    # As scikit-learn has it, so that a component without samples has a mean.
    size = membership.sum(dim=2) + 10 * torch.finfo(x.dtype).eps
    means = (membership * x).sum(dim=2) / size
    deviation = (x - means[..., None]).square_().mul_(membership)
    variances = deviation.sum(dim=2) / size + reg_covar
    return torch.stack([means, variances, size / size.sum(dim=0)])


def _check(values: Tensor, exists: Tensor) -> None:
    right = values.dim() == 2 and values.is_floating_point()
    check_that(right, "values", "a float tensor (G, C)", values)
    right = exists.shape == values.shape and exists.dtype == torch.bool
    check_that(right, "exists", f"bool of shape {tuple(values.shape)} as values has", exists)
