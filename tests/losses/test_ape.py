import math

import pytest
import torch
from torch.nn import functional

from ranking_det.losses import ape_loss
from ranking_det.losses.kernels.sigmoid_sums import SATURATION
from tests.losses.cases import assert_close, gradient, ramp, random_case


def by_autograd(
    logits,
    positives,
    quality,
    lam=8.0,
    cutoff=-4.0,
    count_self=True,
    weight_by_quality=True,
    normalizer="positives",
):
    """Compute equations 9 and 10 one positive at a time, with autograd."""
    is_positive = torch.zeros(len(logits), dtype=torch.bool)
    is_positive[positives] = True
    total, active = 0.0, 0
    for u, i_u in zip(positives.tolist(), quality.tolist(), strict=True):
        x = lam * (logits - logits[u])
        in_range = x > (-math.inf if cutoff is None else cutoff)
        worse = torch.zeros_like(is_positive)
        worse[positives] = quality < i_u
        is_competitor = in_range & (worse | ~is_positive)
        sigmoid = torch.sigmoid(x.detach())
        if not count_self:
            sigmoid[u] = 0
        constant = (sigmoid * in_range).sum().clamp_min(1e-300)
        active += bool(is_competitor.any())
        if is_competitor.any():
            weight = i_u if weight_by_quality else 1.0
            total = (
                total
                + weight / constant * functional.softplus(x[is_competitor], threshold=50).sum()
            )
    return total / lam / (active if normalizer == "active" else len(positives))


CASES = {
    "narrow": random_case(spread=0.1),
    "normal": random_case(60, 400),
    "wide": random_case(60, 400, spread=10.0),
    "very wide": random_case(60, 400, spread=1e4),
    "ties": random_case(ties=True),
    "no negative": random_case(20, 0),
    "one positive": random_case(1, 50),
    "offset": random_case(offset=1e4),
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cutoff": None, "count_self": False},
        {"weight_by_quality": False},
        {"normalizer": "active"},
        {"lam": 2.0},
        {"lam": 16.0, "cutoff": -1.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_agree_with_autograd(name, options):
    case = CASES[name]
    loss = ape_loss(*case, **options)
    expected = by_autograd(*case, **options)
    assert_close(loss, expected, 1e-9)
    assert_close(gradient(loss, case.logits), gradient(expected, case.logits), 1e-9)


@pytest.mark.parametrize("name", CASES)
def test_float32_agrees_with_autograd_in_float64_on_the_same_logits(name):
    case = CASES[name]
    logits = case.logits.detach().float().requires_grad_()
    double = logits.detach().double().requires_grad_()
    loss = ape_loss(logits, case.positives, case.quality)
    expected = by_autograd(double, case.positives, case.quality)
    assert_close(loss, expected, 1e-5)
    assert_close(gradient(loss, logits), gradient(expected, double), 1e-5)


@pytest.mark.parametrize(
    ("options", "value", "logit_gradient"),
    [
        ({}, 0.257076,
         [0.208989, 0.115126, -0.181311, -0.050057, 0.041942, -0.142681, 0.007992, 0]),
        ({"cutoff": None, "count_self": False}, 0.303687, None),
    ],
)  # fmt: skip
def test_published_examples_match_to_the_printed_digits(options, value, logit_gradient):
    case = ramp()
    loss = ape_loss(*case, **options)
    assert loss.item() == pytest.approx(value, abs=6e-7)
    if logit_gradient is not None:
        assert gradient(loss, case.logits).tolist() == pytest.approx(logit_gradient, abs=6e-7)


def test_saturate_equals_the_cross_entropy_of_single_precision_sigmoids():
    case = random_case(30, 200, spread=3.0)
    logits = case.logits.detach().float().requires_grad_()
    quality = case.quality.float()
    total, positive_indices = 0.0, set(case.positives.tolist())
    for u, i_u in zip(case.positives.tolist(), quality.tolist(), strict=True):
        x = 8.0 * (logits - logits[u])
        worse = {
            v for v, i_v in zip(case.positives.tolist(), quality.tolist(), strict=True) if i_v < i_u
        }
        competitors = [
            v for v in range(len(x)) if x[v] > -4 and (v in worse or v not in positive_indices)
        ]
        if not competitors:
            continue
        sigmoid = torch.sigmoid(x)
        constant = (sigmoid.detach() * (x > -4)).sum()
        entropy = functional.binary_cross_entropy(
            sigmoid[competitors], torch.zeros(len(competitors)), reduction="sum"
        )
        total = total + i_u * entropy / constant / 8.0 / len(quality)
    loss = ape_loss(logits, case.positives, quality, saturate=True)
    # Near the threshold a single-precision 1 - p has few digits.
    assert_close(loss, total, 1e-3)
    assert_close(gradient(loss, logits), gradient(total, logits), 1e-4)


def test_a_pair_far_in_the_wrong_order_has_a_gradient_unless_saturated():
    logits = torch.tensor([0.0, 3.0], requires_grad=True)
    positives, quality = torch.tensor([0]), torch.tensor([1.0])
    assert 3 * 8 > SATURATION
    unsaturated = ape_loss(logits, positives, quality, count_self=False)
    assert gradient(unsaturated, logits).tolist() == pytest.approx([-1, 1])
    saturated = ape_loss(logits, positives, quality, count_self=False, saturate=True)
    assert saturated.item() == pytest.approx(100 / 8)
    assert gradient(saturated, logits).tolist() == [0, 0]


def test_max_negatives_ranks_only_the_highest_negatives():
    case = random_case(10, 60)
    logits = case.logits.detach().clone()
    is_positive = torch.zeros(len(logits), dtype=torch.bool)
    is_positive[case.positives] = True
    dropped = torch.argsort(logits.masked_fill(is_positive, torch.inf))[: 60 - 9]
    limited = ape_loss(*case, max_negatives=9)
    logits[dropped] = -torch.inf
    unlimited = ape_loss(logits.requires_grad_(), case.positives, case.quality, max_negatives=None)
    assert_close(limited, unlimited, 1e-12)
    assert_close(gradient(limited, case.logits), gradient(unlimited, logits), 1e-12)


def test_a_batch_without_pairs_gives_a_zero_attached_to_the_graph():
    logits = torch.tensor([5.0, -5.0], requires_grad=True)
    for positives, quality in (
        (torch.tensor([0]), torch.tensor([0.7])),
        (torch.zeros(0, dtype=torch.int64), torch.zeros(0)),
    ):
        for normalizer in ("positives", "active"):
            for count_self in (True, False):
                loss = ape_loss(
                    logits, positives, quality, normalizer=normalizer, count_self=count_self
                )
                assert loss.item() == 0
                assert gradient(loss, logits).tolist() == [0, 0]


def test_nan_and_infinite_logits_are_treated_as_in_the_other_ranking_losses():
    case = random_case()
    low = torch.full((2,), -math.inf, dtype=torch.float64)
    padded = torch.cat([case.logits.detach(), low]).requires_grad_()
    loss = ape_loss(padded, case.positives, case.quality)
    assert_close(loss, ape_loss(*case), 1e-12)
    assert not gradient(loss, padded)[-2:].any()
    above = torch.cat([case.logits.detach(), -low]).requires_grad_()
    loss = ape_loss(above, case.positives, case.quality)
    assert loss.item() == math.inf and gradient(loss, above).isfinite().all()
    with_nan = torch.cat([case.logits.detach(), torch.tensor([math.nan])])
    assert ape_loss(with_nan, case.positives, case.quality).isnan()
    infinite = case.logits.detach().clone()
    infinite[case.positives[0]] = math.inf
    assert ape_loss(infinite, case.positives, case.quality).isnan()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cutoff": 1.0}, "cutoff: expected a number below 0 or None, got 1.0"),
        ({"normalizer": "all"}, "normalizer: expected one of positives, active, got 'all'"),
        ({"max_negatives": -3}, "max_negatives: expected an integer of at least 0, got -3"),
        ({"lam": -1.0}, "lam: expected a finite number above 0, got -1.0"),
    ],
)
def test_bad_options_raise_value_error_with_the_expected_and_given_value(change, message):
    with pytest.raises(ValueError, match=message):
        ape_loss(*ramp(), **change)


@pytest.mark.parametrize("gap", [1.0, 4.0, 8.0, 9.0, 40.0])
def test_one_negative_far_below_still_counts_as_in_equation_10(gap):
    """softplus(x) / sigmoid(x) tends to 1: the value is 1 / lam, and the gradient 1."""
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor([0.0, -gap], dtype=dtype, requires_grad=True)
        quality = torch.ones(1, dtype=dtype)
        loss = ape_loss(logits, torch.tensor([0]), quality, cutoff=None, count_self=False)
        x = torch.tensor(-8.0 * gap, dtype=torch.float64)
        expected = torch.nn.functional.softplus(x) / x.sigmoid() / 8
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
        loss.backward()
        torch.testing.assert_close(logits.grad, torch.tensor([-1.0, 1.0], dtype=dtype))


def test_many_negatives_far_below_keep_their_precision_in_float32():
    values = []
    for dtype in (torch.float32, torch.float64):
        logits = torch.full((2050,), -2.5, dtype=dtype)
        logits[:50] = 0
        values.append(ape_loss(logits, torch.arange(50), torch.ones(50, dtype=dtype), cutoff=-20.0))
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-5)


def test_a_far_cutoff_equals_no_cutoff_for_pairs_within_it():
    logits = torch.tensor([0.0, -10.0], requires_grad=True)
    positives, quality = torch.tensor([0]), torch.tensor([1.0])
    loss = ape_loss(logits, positives, quality, cutoff=-100.0, count_self=False)
    expected = ape_loss(logits, positives, quality, cutoff=None, count_self=False)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(loss, torch.tensor(0.125))
