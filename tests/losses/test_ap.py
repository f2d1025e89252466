import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking_det.losses import ap_loss
from tests.losses import reference
from tests.losses.cases import (
    CASES,
    DELTAS,
    assert_close,
    gradient,
    ramp,
    random_case,
    small_problems,
    stair,
)

SIGMOID_DISTANCES = ["sigmoid", "cross_entropy"]


def assert_agrees(logits, positives, tolerance, **options):
    loss = ap_loss(logits, positives, **options)
    value, logit_gradient = reference.average_precision(
        logits.tolist(), positives.tolist(), **options
    )
    assert_close(loss, value, tolerance)
    assert_close(gradient(loss, logits), logit_gradient, tolerance)


@pytest.mark.parametrize(
    ("case", "options", "value", "logit_gradient"),
    [
        (stair(), {}, 0.207143, [0, 0, 0.085714, 0.085714, -0.1, 0.035714, -0.107143, 0]),
        (ramp(), {"delta": 0.25}, 0.300538,
         [0.248405, -0.073864, -0.073864, -0.073864, 0.047747, -0.078947, 0.004386, 0]),
        (ramp(), {"delta": 0.25, "interpolated": False}, 0.354565, None),
        (ramp(), {}, 0.355759,
         [0.222879, -0.079545, -0.088028, -0.092391, 0.082648, -0.095794, 0.045559, 0.004673]),
    ],
)  # fmt: skip
def test_published_examples_match_to_the_printed_digits(case, options, value, logit_gradient):
    loss = ap_loss(case.logits, case.positives, **options)
    assert loss.item() == pytest.approx(value, abs=6e-7)
    if logit_gradient is not None:
        assert gradient(loss, case.logits).tolist() == pytest.approx(logit_gradient, abs=6e-7)


@pytest.mark.parametrize("interpolated", [True, False])
@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("name", CASES)
def test_float64_agrees_with_the_loop_reference(name, delta, interpolated):
    case, tolerance = CASES[name], 1e-7 if name == "very wide" else 1e-9
    assert_agrees(case.logits, case.positives, tolerance, delta=delta, interpolated=interpolated)


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("name", CASES)
def test_float32_agrees_with_the_loop_reference_on_the_same_logits(name, delta):
    logits = CASES[name].logits.detach().float().requires_grad_()
    assert_agrees(logits, CASES[name].positives, 1e-5, delta=delta)


@pytest.mark.parametrize("self_count", [0.5, 1.0])
@pytest.mark.parametrize("interpolated", [True, False])
@pytest.mark.parametrize("balance", ["rank", "negatives"])
@pytest.mark.parametrize("distance", ["step", *SIGMOID_DISTANCES])
@pytest.mark.parametrize("name", ["ties", "300 positives", "wide", "no negative", "one positive"])
def test_every_variant_agrees_with_the_loop_reference(
    name, distance, balance, interpolated, self_count
):
    options = {
        "distance": distance,
        "balance": balance,
        "interpolated": interpolated,
        "self_count": self_count,
    }
    assert_agrees(CASES[name].logits, CASES[name].positives, 1e-9, **options)


@pytest.mark.parametrize("distance", SIGMOID_DISTANCES)
@pytest.mark.parametrize("lam", [2.0, 16.0])
def test_any_sigmoid_slope_agrees_with_the_loop_reference(distance, lam):
    case = random_case(60, 300, spread=3.0)
    assert_agrees(case.logits, case.positives, 1e-9, distance=distance, lam=lam)
    single = case.logits.detach().float().requires_grad_()
    assert_agrees(single, case.positives, 1e-5, distance=distance, lam=lam)


def test_the_cross_entropy_has_the_gradient_of_the_sigmoid():
    case = random_case()
    first, second = (
        gradient(ap_loss(case.logits, case.positives, distance=distance), case.logits)
        for distance in SIGMOID_DISTANCES
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("distance", ["step", "sigmoid"])
def test_max_negatives_ranks_only_the_highest_negatives(distance):
    case = random_case(10, 50)
    logits = case.logits.detach().clone()
    is_positive = torch.zeros(len(logits), dtype=torch.bool)
    is_positive[case.positives] = True
    dropped = torch.argsort(logits.masked_fill(is_positive, torch.inf))[: 50 - 7]
    limited = ap_loss(case.logits, case.positives, distance=distance, max_negatives=7)
    logits[dropped] = -torch.inf
    unlimited = ap_loss(logits.requires_grad_(), case.positives, distance=distance)
    assert limited.item() == pytest.approx(unlimited.item(), abs=1e-12)
    assert_close(gradient(limited, case.logits), gradient(unlimited, logits), 1e-12)
    not_limiting = ap_loss(case.logits, case.positives, distance=distance, max_negatives=1000)
    assert_close(not_limiting, ap_loss(case.logits, case.positives, distance=distance), 1e-12)


@pytest.mark.parametrize("options", [{}, {"distance": "sigmoid"}, {"max_negatives": 3}])
def test_the_loss_is_a_zero_attached_to_the_graph_without_positives(options):
    logits = torch.full((5,), -torch.inf, requires_grad=True)
    loss = ap_loss(logits, torch.zeros(0, dtype=torch.int64), **options)
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(logits.grad, torch.zeros(5))


@pytest.mark.parametrize("distance", ["step", *SIGMOID_DISTANCES])
def test_every_distance_treats_nan_and_infinite_logits_alike(distance):
    case = random_case()
    negatives = torch.tensor([-math.inf, -math.inf])
    padded = torch.cat([case.logits.detach(), negatives]).requires_grad_()
    loss = ap_loss(padded, case.positives, distance=distance)
    assert loss.item() == pytest.approx(
        ap_loss(case.logits, case.positives, distance=distance).item(), abs=1e-12
    )
    assert not gradient(loss, padded)[-2:].any()
    above = torch.cat([case.logits.detach(), -negatives]).requires_grad_()
    assert gradient(ap_loss(above, case.positives, distance=distance), above).isfinite().all()
    with_nan = torch.cat([case.logits.detach(), torch.tensor([math.nan])])
    assert ap_loss(with_nan, case.positives, distance=distance).isnan()
    infinite = case.logits.detach().clone()
    infinite[case.positives[0]] = math.inf
    assert ap_loss(infinite, case.positives, distance=distance).isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("distance", ["step", "sigmoid"])
def test_half_precision_logits_are_computed_in_single_precision(dtype, distance):
    case = random_case(20, 80)
    logits = case.logits.detach().to(dtype).requires_grad_()
    single = logits.detach().float().requires_grad_()
    loss = ap_loss(logits, case.positives, distance=distance)
    single_loss = ap_loss(single, case.positives, distance=distance)
    assert loss.dtype == torch.float32 and torch.equal(loss, single_loss)
    assert torch.equal(gradient(loss, logits), gradient(single_loss, single).to(dtype))


@settings(max_examples=60, deadline=None)
@given(small_problems(), st.sampled_from(DELTAS), st.sampled_from(["step", "sigmoid"]))
def test_gradients_sum_to_0_and_those_of_the_negatives_to_the_value(problem, delta, distance):
    logits, positives, _ = problem
    loss = ap_loss(logits, positives, delta=delta, distance=distance)
    grad = gradient(loss, logits)
    assert abs(grad.sum().item()) < 1e-9
    grad[positives] = 0
    assert grad.sum().item() == pytest.approx(loss.item(), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(small_problems(), st.sampled_from([0.0, 0.3, 1.0]), st.booleans())
def test_any_small_problem_agrees_with_the_loop_reference(problem, delta, interpolated):
    logits, positives, _ = problem
    assert_agrees(logits, positives, 1e-9, delta=delta, interpolated=interpolated)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distance": "hinge"}, "distance: expected one of step, sigmoid, cross_entropy, got 'hin"),
        ({"balance": "none"}, "balance: expected one of rank, negatives, got 'none'"),
        ({"lam": 0.0}, "lam: expected a finite number above 0, got 0.0"),
        ({"margin": -1.0}, "margin: expected a finite number of at least 0, got -1.0"),
        ({"self_count": 0.0}, "self_count: expected a finite number above 0"),
        ({"max_negatives": -1}, "max_negatives: expected an integer of at least 0"),
        ({"delta": math.inf}, "delta: expected a finite number"),
    ],
)
def test_bad_options_raise_value_error_with_the_expected_and_given_value(change, message):
    case = ramp()
    with pytest.raises(ValueError, match=message):
        ap_loss(case.logits, case.positives, **change)
