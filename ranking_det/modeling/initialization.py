"""Bias initialization of the last layers of heads."""

from __future__ import annotations

import math


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
