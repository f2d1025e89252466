"""Initialization of the convolutions of heads."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn


def prior_logit(prior_prob: float) -> float:
    """Compute the initial bias of a logit from a prior probability.

    See RetinaNet (Lin et al., ICCV 2017, section 4.1).

    Args:
        prior_prob: the initial score, sigmoid(bias), in (0, 1).

    Returns:
        The bias, the logit of ``prior_prob``.

    Raises:
        ValueError: ``prior_prob`` is not in (0, 1).
    """
    if not 0 < prior_prob < 1:
        raise ValueError(f"prior_prob: expected a number in (0, 1), got {prior_prob}")
    return -math.log((1 - prior_prob) / prior_prob)


def initialize_normal(module: nn.Module) -> None:
    """Initialize all convolutions with normal weights of standard deviation .01, biases of 0.

    See RetinaNet (Lin et al., ICCV 2017, section 4.1).

    Args:
        module: the module that contains the convolutions.
    """
    _initialize(module, partial(nn.init.normal_, std=0.01))


def initialize_xavier(module: nn.Module) -> None:
    """Initialize all convolutions with Xavier uniform weights and biases of 0.

    Args:
        module: the module that contains the convolutions.
    """
    _initialize(module, nn.init.xavier_uniform_)


def _initialize(module: nn.Module, initialize: Callable[[Tensor], Tensor]) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            initialize(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
