import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking_det.losses import alrp, alrp_loss
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


def errors_of(case):
    return (2 * (1 - case.quality)).detach().requires_grad_()


def assert_agrees(logits, positives, errors, delta, tolerance):
    losses = alrp_loss(logits, positives, errors, delta=delta)
    classification, localization, logit_gradient, error_gradient = reference.alrp(
        logits.tolist(), positives.tolist(), errors.tolist(), delta
    )
    assert_close(losses.classification, classification, tolerance)
    assert_close(losses.localization, localization, tolerance)
    assert_close(gradient(losses.classification, logits), logit_gradient, tolerance)
    assert_close(gradient(losses.localization, errors), error_gradient, tolerance)


@pytest.mark.parametrize(
    ("case", "errors", "classification", "localization", "logit_gradient"),
    [
        (stair(), [0.1, 0.6, 0.2, 0.9], 0.207143, None,
         [0, 0, 0.113929, 0.113929, -0.135, 0.046429, -0.139286, 0]),
        (ramp(), [0.7, 0.1, 0.4, 0.2], 0.355759, 0.266521,
         [0.308081, -0.090909, -0.135915, -0.132609, 0.118696, -0.141589, 0.067338, 0.006907]),
    ],
)  # fmt: skip
def test_published_examples_match_to_the_printed_digits(
    case, errors, classification, localization, logit_gradient
):
    losses = alrp_loss(case.logits, case.positives, torch.tensor(errors).double())
    assert losses.classification.item() == pytest.approx(classification, abs=6e-7)
    if localization is not None:
        assert losses.localization.item() == pytest.approx(localization, abs=6e-7)
    actual = gradient(losses.classification, case.logits).tolist()
    assert actual == pytest.approx(logit_gradient, abs=6e-7)


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("name", CASES)
def test_float64_agrees_with_the_loop_reference(name, delta):
    case, tolerance = CASES[name], 1e-7 if name == "very wide" else 1e-9
    assert_agrees(case.logits, case.positives, errors_of(case), delta, tolerance)


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("name", CASES)
def test_float32_agrees_with_the_loop_reference_on_the_same_logits(name, delta):
    case = CASES[name]
    logits = case.logits.detach().float().requires_grad_()
    errors = errors_of(case).detach().float().requires_grad_()
    assert_agrees(logits, case.positives, errors, delta, 1e-5)


def test_each_part_has_a_gradient_with_respect_to_its_input_only():
    case = ramp()
    errors = errors_of(case)
    losses = alrp_loss(case.logits, case.positives, errors)
    (2 * losses.classification + 3 * losses.localization).backward(retain_graph=True)
    assert torch.allclose(case.logits.grad, 2 * gradient(losses.classification, case.logits))
    assert torch.allclose(errors.grad, 3 * gradient(losses.localization, errors))
    for loss, other in ((losses.classification, errors), (losses.localization, case.logits)):
        assert torch.autograd.grad(loss, other, retain_graph=True, allow_unused=True) == (None,)


def test_both_parts_are_zeros_attached_to_the_graph_without_positives():
    logits = torch.full((5,), -torch.inf, requires_grad=True)
    errors = torch.zeros(0, requires_grad=True)
    losses = alrp_loss(logits, torch.zeros(0, dtype=torch.int64), errors)
    (losses.classification + losses.localization).backward()
    assert [loss.item() for loss in losses] == [0, 0]
    assert torch.equal(logits.grad, torch.zeros(5)) and errors.grad.shape == (0,)


def test_alrp_of_perfect_boxes_has_the_gradient_of_ap_without_interpolation():
    from ranking_det.losses import ap_loss

    case = random_case()
    alrp = alrp_loss(case.logits, case.positives, torch.zeros_like(case.quality))
    average = ap_loss(case.logits, case.positives, interpolated=False)
    assert alrp.classification.item() == pytest.approx(average.item(), abs=1e-12)
    alrp_gradient = gradient(alrp.classification, case.logits)
    assert_close(alrp_gradient, gradient(average, case.logits), 1e-9)


@settings(max_examples=60, deadline=None)
@given(small_problems(), st.sampled_from(DELTAS))
def test_gradients_sum_to_0_and_any_small_problem_agrees_with_the_reference(problem, delta):
    logits, positives, quality = problem
    errors = (1 - quality).requires_grad_()
    losses = alrp_loss(logits, positives, errors, delta=delta)
    assert abs(gradient(losses.classification, logits).sum().item()) < 1e-9
    assert_agrees(logits, positives, errors, delta, 1e-9)


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        (
            torch.zeros(3),
            "localization_errors: expected .* .4,. .* one entry per positive, got .*.3,.",
        ),
        (torch.tensor([0.0, 0, 0, -1]), r"localization_errors: expected values in \[0, inf\]"),
        (torch.tensor([0.0, 0, 0, math.nan]), "localization_errors: expected values"),
    ],
)
def test_bad_errors_raise_value_error_with_the_expected_and_given_value(errors, message):
    case = ramp()
    with pytest.raises(ValueError, match=message):
        alrp_loss(case.logits, case.positives, errors)


def test_an_error_on_a_device_without_autocast_leaves_gradients_enabled():
    logits, positives = torch.zeros(3, device="meta"), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(Exception):  # noqa: B017 - torch decides the type
        alrp_loss(logits, positives.to("meta"), torch.zeros(1, device="meta"))
    assert torch.is_grad_enabled()


def test_both_gradients_have_the_precision_of_the_logits(monkeypatch):
    attached_parts = []
    original = alrp.attach_gradients
    monkeypatch.setattr(
        alrp,
        "attach_gradients",
        lambda x, *parts: attached_parts.extend(parts) or original(x, *parts),
    )
    alrp_loss(torch.randn(9), torch.tensor([1, 4]), torch.tensor([0.3, 0.4]))
    assert [part.gradient.dtype for part in attached_parts] == [torch.float32] * 2
