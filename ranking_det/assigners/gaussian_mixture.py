"""Fit Gaussian mixture models (GMM) with two components in one dimension, many in one call.

Expectation maximization (EM; Dempster et al., 1977) on all rows of a matrix simultaneously. Each
row gets the same result as from scikit-learn's GaussianMixture on that row.

Shapes: G rows, C samples per row.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ranking_det.checks import check_that

TOLERANCE = 1e-3
"""A row has converged if its mean log-likelihood, in nats, changes by less than this."""
MAX_ITERATIONS = 100
"""Maximum number of iterations, even if some rows have not converged."""
CHECK_EVERY = 8
"""Number of iterations between checks for convergence, which synchronize host and GPU."""


class TwoGaussians(NamedTuple):
    """Mixtures of two Gaussians, one per row, in float64.

    Attributes:
        means: (G, 2); component 0 starts from the smallest sample, 1 from the largest.
        variances: (G, 2), > 0.
        weights: (G, 2), > 0, with sum 1.
        converged: (G,) bool, whether the row converged within MAX_ITERATIONS.
    """

    means: Tensor
    variances: Tensor
    weights: Tensor
    converged: Tensor


def fit_two_gaussians(values: Tensor, exists: Tensor, *, reg_covar: float = 1e-6) -> TwoGaussians:
    """Fit a mixture of two Gaussians to the samples of each row.

    The fit starts with means at the smallest and the largest sample, equal weights and variances of
    1, as PAA does (Kim and Lee, ECCV 2020). A row that has converged no longer changes while the
    other rows continue.

    Args:
        values: (G, C) float, finite where ``exists``.
        exists: (G, C) bool, whether an entry is a sample; a row without samples gets a mixture
            around 0.
        reg_covar: added to the variances to keep them above 0 for equal samples, > 0.

    Returns:
        The mixtures, on the device of ``values``, or on the CPU if the device has no float64.

    Raises:
        ValueError: a shape or dtype is not as described.

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
    """Compute the most likely component and the log-likelihood of each value.

    Args:
        values: (G, C) float; row g belongs to mixture g.
        mixture: the mixtures of the G rows.

    Returns:
        (G, C) int64, the component 0 or 1 (0 if both are equally likely), and (G, C) float64, the
        logarithm of the mixture's density; on the device of the mixture.
    """
    state = torch.stack([mixture.means, mixture.variances, mixture.weights]).transpose(1, 2)
    densities = _log_densities(in_float64(values), state)
    odds = densities[1] - densities[0]
    return (odds > 0).long(), _log_sum(densities, odds)


def in_float64(values: Tensor) -> Tensor:
    """Convert a tensor to float64, on the CPU if its device has no float64.

    Args:
        values: a tensor of any shape.

    Returns:
        The same values in float64.
    """
    if values.device.type == "mps":
        values = values.cpu()
    return values.to(torch.float64)


def _start(values: Tensor, exists: Tensor) -> Tensor:
    """Return means, variances and weights (3, 2, G) before the first iteration."""
    # With an additional column, amin and amax also work for matrices without columns.
    padded = functional.pad(values, (0, 1))
    outside = functional.pad(~exists, (0, 1), value=True)
    empty = outside.all(dim=1)
    low = padded.masked_fill(outside, torch.inf).amin(dim=1).masked_fill(empty, 0.0)
    high = padded.masked_fill(outside, -torch.inf).amax(dim=1).masked_fill(empty, 0.0)
    means = torch.stack([low, high])
    return torch.stack([means, torch.ones_like(means), torch.full_like(means, 0.5)])


def _log_densities(x: Tensor, state: Tensor) -> Tensor:
    """Return the log (2, G, C) of weight times density of x (G, C) under a state (3, 2, G)."""
    means, variances, weights = state
    constant = weights.log() - 0.5 * (variances.log() + math.log(2 * math.pi))
    scaled = (x - means[..., None]) * variances.rsqrt()[..., None]
    return torch.addcmul(constant[..., None], scaled, scaled, value=-0.5)


def _log_sum(densities: Tensor, odds: Tensor) -> Tensor:
    """Return the log (G, C) of the sum of both densities (2, G, C); odds: second minus first."""
    # torch.logaddexp takes twice as long. logsigmoid starts threads, which do not pay off here.
    return torch.maximum(densities[0], densities[1]) + functional.softplus(-odds.abs())


def _maximize(x: Tensor, membership: Tensor, reg_covar: float) -> Tensor:
    """Return means, variances, weights (3, 2, G) of samples x (G, C) with membership (2, G, C)."""
    # The small term is scikit-learn's: it gives a component without samples a mean.
    size = membership.sum(dim=2) + 10 * torch.finfo(x.dtype).eps
    means = (membership * x).sum(dim=2) / size
    deviation = (x - means[..., None]).square_().mul_(membership)
    variances = deviation.sum(dim=2) / size + reg_covar
    return torch.stack([means, variances, size / size.sum(dim=0)])


def _check(values: Tensor, exists: Tensor) -> None:
    is_valid = values.dim() == 2 and values.is_floating_point()
    check_that(is_valid, "values", "a float tensor (G, C)", values)
    is_valid = exists.shape == values.shape and exists.dtype == torch.bool
    check_that(is_valid, "exists", f"bool of shape {tuple(values.shape)}, as values", exists)
