"""How the last layers of heads start."""

from __future__ import annotations

import math


def prior_logit(prior_prob: float) -> float:
    """The bias with which a class's score starts at ``prior_prob``.

    Raises:
        ValueError: it is not in (0, 1).
    """
    if not 0 < prior_prob < 1:
        raise ValueError(f"prior_prob must be in (0, 1), got {prior_prob}")
    return -math.log((1 - prior_prob) / prior_prob)
