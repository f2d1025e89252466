"""Shared inputs and assertions of the loss tests."""

from typing import NamedTuple

import torch
from hypothesis import strategies as st

RAMP_LOGITS = [1.4, 1.2, 0.8, 0.5, 0.4, 0.3, 0.1, -0.5]
RAMP_POSITIVES = [1, 2, 3, 5]
RAMP_QUALITY = [0.3, 0.9, 0.6, 0.8]

STAIR_LOGITS = [3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0]
STAIR_POSITIVES = [0, 1, 4, 6]
STAIR_QUALITY = [0.9, 0.4, 0.8, 0.1]


class Case(NamedTuple):
    logits: torch.Tensor
    positives: torch.Tensor
    quality: torch.Tensor


def ramp(dtype=torch.float64):
    """Return an example with close logits, where H takes values between 0 and 1."""
    return Case(
        torch.tensor(RAMP_LOGITS, dtype=dtype, requires_grad=True),
        torch.tensor(RAMP_POSITIVES),
        torch.tensor(RAMP_QUALITY, dtype=dtype),
    )


def stair(dtype=torch.float64):
    """Return an example whose logits are 1 apart, where H is a step for delta up to 1."""
    return Case(
        torch.tensor(STAIR_LOGITS, dtype=dtype, requires_grad=True),
        torch.tensor(STAIR_POSITIVES),
        torch.tensor(STAIR_QUALITY, dtype=dtype),
    )


def random_case(positives=40, negatives=160, spread=1.0, offset=0.0, ties=False, seed=0):
    """Draw normal float64 logits around ``offset``; with ties, rounded to a few values."""
    generator = torch.Generator().manual_seed(seed)
    count = positives + negatives
    logits = torch.randn(count, dtype=torch.float64, generator=generator) * spread
    quality = torch.rand(positives, dtype=torch.float64, generator=generator)
    if ties:
        logits = (logits * 4 / spread).round() / 4 * spread
        quality = (quality * 4).round() / 4
    chosen = torch.randperm(count, generator=generator)[:positives]
    return Case((logits + offset).requires_grad_(), chosen, quality)


# The tests of each ranking loss use all of these cases, with all values of delta.
CASES = {
    "no positive": random_case(0, 50),
    "one positive": random_case(1, 50),
    "two positives": random_case(2, 50),
    "300 positives": random_case(300, 700),
    "one logit": random_case(1, 0),
    "no negative": random_case(20, 0),
    "one negative": random_case(20, 1),
    "narrow": random_case(spread=1e-3),
    "wide": random_case(spread=100.0),
    "very wide": random_case(spread=1e4),
    "ties": random_case(ties=True),
    "all equal": random_case(spread=0.0),
    "offset": random_case(offset=1e4),
    "negative offset": random_case(offset=-1e4, spread=10.0),
}
DELTAS = [0.0, 0.25, 0.5, 1.0]


def shift_negatives(shift):
    """Make a case in which all negatives are shifted by ``shift`` relative to the positives."""
    case = random_case(30, 70)
    logits = case.logits.detach().clone()
    is_positive = torch.zeros(len(logits), dtype=torch.bool)
    is_positive[case.positives] = True
    logits[~is_positive] += shift
    return case._replace(logits=logits.requires_grad_())


CASES["all negatives above"] = shift_negatives(50.0)
CASES["no relevant negative"] = shift_negatives(-50.0)


def gradient(output, logits):
    return torch.autograd.grad(output, logits, retain_graph=True)[0]


def assert_close(actual, expected, tolerance):
    """Compare with a tolerance relative to the largest expected entry, at least 1e-6."""
    expected = torch.as_tensor(expected, dtype=torch.float64).detach()
    scale = max(float(expected.abs().max()) if expected.numel() else 0.0, 1e-6)
    torch.testing.assert_close(
        torch.as_tensor(actual).detach().double(), expected, rtol=0, atol=tolerance * scale
    )


logits_lists = st.lists(
    st.floats(-30, 30, allow_nan=False, width=32) | st.integers(-3, 3).map(float),
    min_size=1,
    max_size=40,
)


@st.composite
def small_problems(draw):
    logits = torch.tensor(draw(logits_lists), dtype=torch.float64)
    count = draw(st.integers(1, len(logits)))
    positives = torch.tensor(draw(st.permutations(range(len(logits))))[:count])
    quality = draw(st.lists(st.integers(0, 8), min_size=count, max_size=count))
    return logits.requires_grad_(), positives, torch.tensor(quality, dtype=torch.float64) / 8
