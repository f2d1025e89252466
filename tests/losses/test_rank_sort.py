import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking_det.losses import RankSortLosses, rank_sort_loss
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


def expected(case, delta):
    return reference.rank_sort(
        case.logits.tolist(), case.positives.tolist(), case.quality.tolist(), delta
    )


def assert_agrees(case, delta, tolerance, dtype=torch.float64):
    logits = case.logits.detach().to(dtype).requires_grad_()
    quality = case.quality.to(torch.promote_types(dtype, torch.float32))
    losses = rank_sort_loss(logits, case.positives, quality, delta=delta)
    ranking, sorting, ranking_gradient, sorting_gradient = expected(
        case._replace(logits=logits.detach(), quality=quality), delta
    )
    assert_close(losses.ranking, ranking, tolerance)
    assert_close(losses.sorting, sorting, tolerance)
    assert_close(gradient(losses.ranking, logits), ranking_gradient, tolerance)
    assert_close(gradient(losses.sorting, logits), sorting_gradient, tolerance)


@pytest.mark.parametrize(
    ("case", "delta", "ranking", "sorting", "total"),
    [
        (stair(), 0.0, 0.207143, 0.0375,
         [0, 0.0375, 0.085714, 0.085714, -0.1375, 0.035714, -0.107143, 0]),
        (stair(), 0.5, 0.226496, 0.046667,
         [0, 0.046667, 0.094017, 0.094017, -0.157778, 0.038462, -0.115385, 0]),
        (ramp(), 0.5, 0.421068, 0.199479,
         [0.337203, 0.023584, -0.195602, -0.097059, 0.063061, -0.151991, 0.020803, 0]),
    ],
)  # fmt: skip
def test_published_examples_match_to_the_printed_digits(case, delta, ranking, sorting, total):
    losses = rank_sort_loss(*case, delta=delta)
    assert losses.ranking.item() == pytest.approx(ranking, abs=6e-7)
    assert losses.sorting.item() == pytest.approx(sorting, abs=6e-7)
    actual = gradient(losses.ranking + losses.sorting, case.logits)
    assert actual.tolist() == pytest.approx(total, abs=6e-7)


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("name", CASES)
def test_float64_agrees_with_the_loop_reference(name, delta):
    assert_agrees(CASES[name], delta, 1e-7 if name == "very wide" else 1e-9)


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("name", CASES)
def test_float32_agrees_with_the_loop_reference_on_the_same_logits(name, delta):
    assert_agrees(CASES[name], delta, 1e-5, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_get_the_gradient_rounded_once(dtype):
    case = random_case(20, 80)
    logits = case.logits.detach().to(dtype).requires_grad_()
    losses = rank_sort_loss(logits, case.positives, case.quality.float())
    assert losses.ranking.dtype == losses.sorting.dtype == torch.float32
    single = logits.detach().float().requires_grad_()
    single_precision_losses = rank_sort_loss(single, case.positives, case.quality.float())
    assert torch.equal(single_precision_losses.ranking, losses.ranking)
    for one, other in zip(losses, single_precision_losses, strict=True):
        assert torch.equal(gradient(one, logits), gradient(other, single).to(dtype))


def test_a_loss_scale_reaches_half_precision_gradients_before_they_are_rounded():
    logits = torch.zeros(200_000, dtype=torch.float16, requires_grad=True)
    losses = rank_sort_loss(logits, torch.tensor([7]), torch.tensor([0.5]))
    scaled = gradient(losses.ranking * 65536, logits)
    assert scaled[0] > 0
    expected_entry = 65536 / 200_000 / 2 / (0.5 + 199_999 / 2) * 200_000
    assert scaled[0].item() == pytest.approx(expected_entry, rel=1e-3)


def test_autocast_does_not_change_value_or_gradient():
    case = random_case(20, 80)
    logits = case.logits.detach().float().requires_grad_()
    quality = case.quality.float()
    plain = rank_sort_loss(logits, case.positives, quality)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = rank_sort_loss(logits, case.positives, quality)
    for one, other in zip(plain, cast, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(gradient(one, logits), gradient(other, logits))


@pytest.mark.parametrize("quality", [0.0, 0.5, 1.0])
def test_equal_qualities_give_a_sorting_loss_of_0(quality):
    case = random_case()
    equal_quality = torch.full_like(case.quality, quality)
    losses = rank_sort_loss(case.logits, case.positives, equal_quality)
    assert losses.sorting.item() == 0
    assert not gradient(losses.sorting, case.logits).any()
    assert losses.ranking.item() > 0


def test_positives_of_quality_0_still_get_a_ranking_gradient():
    case = random_case()
    losses = rank_sort_loss(case.logits, case.positives, torch.zeros_like(case.quality))
    assert (gradient(losses.ranking, case.logits)[case.positives] < 0).all()


def test_both_parts_are_zeros_attached_to_the_graph_without_positives():
    logits = torch.full((5,), -torch.inf, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    losses = rank_sort_loss(logits, none, torch.zeros(0))
    assert [loss.item() for loss in losses] == [0, 0]
    (losses.ranking + losses.sorting).backward()
    assert torch.equal(logits.grad, torch.zeros(5))


def test_logits_without_gradient_give_losses_without_gradient():
    case = random_case()
    logits = case.logits.detach()
    none = case.positives[:0]
    assert not rank_sort_loss(logits, case.positives, case.quality).ranking.requires_grad
    assert not rank_sort_loss(logits, none, case.quality[:0]).ranking.requires_grad
    with torch.no_grad():
        assert not rank_sort_loss(*case).sorting.requires_grad


def test_negatives_at_minus_infinity_are_ignored():
    case = random_case()
    without = rank_sort_loss(*case)
    padding = torch.full((30,), -torch.inf, dtype=torch.float64)
    logits = torch.cat([case.logits.detach(), padding]).requires_grad_()
    padded = rank_sort_loss(logits, case.positives, case.quality)
    for one, other in zip(without, padded, strict=True):
        assert one.item() == pytest.approx(other.item(), abs=1e-15)
        full = gradient(other, logits)
        assert not full[-30:].any()
        assert_close(full[:-30], gradient(one, case.logits), 1e-12)


@pytest.mark.parametrize("delta", DELTAS)
def test_negatives_at_plus_infinity_count_fully_with_finite_gradients(delta):
    case = random_case()
    positives = set(case.positives.tolist())
    above = [n for n in range(len(case.logits)) if n not in positives][:5]
    infinite, huge = case.logits.detach().clone(), case.logits.detach().clone()
    infinite[above], huge[above] = torch.inf, 1e6
    losses = []
    for logits in (infinite.requires_grad_(), huge.requires_grad_()):
        loss = rank_sort_loss(logits, case.positives, case.quality, delta=delta).ranking
        losses.append((loss.item(), gradient(loss, logits)))
    assert losses[0][0] == pytest.approx(losses[1][0], abs=1e-9)
    assert_close(losses[0][1], losses[1][1], 1e-9)
    assert (losses[0][1][above] > 0).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_positive_that_is_not_finite_makes_both_parts_nan(value):
    case = random_case()
    logits = case.logits.detach().clone()
    logits[case.positives[3]] = value
    losses = rank_sort_loss(logits.requires_grad_(), case.positives, case.quality)
    assert losses.ranking.isnan() and losses.sorting.isnan()


def test_a_negative_that_is_nan_makes_the_ranking_part_nan():
    case = random_case()
    logits = torch.cat([case.logits.detach(), torch.tensor([math.nan, -math.inf, math.inf])])
    losses = rank_sort_loss(logits.requires_grad_(), case.positives, case.quality)
    assert losses.ranking.isnan()


def test_each_part_sends_its_own_gradient_scaled_by_the_incoming_gradient():
    case = ramp()
    losses = rank_sort_loss(*case)
    ranking, sorting = (gradient(loss, case.logits) for loss in losses)
    combined = gradient(2 * losses.ranking - 3 * losses.sorting, case.logits)
    assert torch.allclose(combined, 2 * ranking - 3 * sorting, rtol=0, atol=1e-15)
    negatives = [0, 4, 6, 7]
    assert not sorting[negatives].any() and sorting.any()


def test_a_second_derivative_raises_runtime_error():
    case = ramp()
    loss = rank_sort_loss(*case).ranking
    with pytest.raises(RuntimeError, match="create_graph: expected False"):
        torch.autograd.grad(loss * loss, case.logits, create_graph=True)


def test_backward_twice_gives_the_same_gradient():
    case = ramp()
    loss = sum(rank_sort_loss(*case))
    assert torch.equal(gradient(loss, case.logits), gradient(loss, case.logits))


def test_the_result_is_a_named_tuple_of_scalars():
    losses = rank_sort_loss(*ramp())
    assert isinstance(losses, RankSortLosses)
    assert losses.ranking.shape == losses.sorting.shape == ()


@settings(max_examples=60, deadline=None)
@given(small_problems(), st.sampled_from(DELTAS))
def test_gradients_sum_to_0_and_those_of_the_negatives_to_the_value(problem, delta):
    logits, positives, _ = problem
    losses = rank_sort_loss(*problem, delta=delta)
    ranking, sorting = (gradient(loss, logits) for loss in losses)
    assert abs(ranking.sum().item()) < 1e-9 and abs(sorting.sum().item()) < 1e-9
    negatives = ranking.clone()
    negatives[positives] = 0
    assert negatives.sum().item() == pytest.approx(losses.ranking.item(), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(small_problems(), st.sampled_from(DELTAS), st.integers(-10_000, 10_000))
def test_a_shift_of_all_logits_does_not_change_the_losses(problem, delta, shift):
    logits, positives, quality = problem
    # Round to a grid on which the shift is exact.
    logits = (logits.detach() * 64).round() / 64
    for one, other in zip(
        rank_sort_loss(logits, positives, quality, delta=delta),
        rank_sort_loss(logits + shift, positives, quality, delta=delta),
        strict=True,
    ):
        assert one.item() == pytest.approx(other.item(), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(small_problems(), st.randoms(use_true_random=False))
def test_a_permutation_of_the_logits_permutes_the_gradient(problem, random):
    logits, positives, quality = problem
    order = list(range(len(logits)))
    random.shuffle(order)
    order = torch.tensor(order)
    shuffled = logits.detach()[order].requires_grad_()
    shuffled_positives = torch.argsort(order)[positives]
    losses = rank_sort_loss(logits, positives, quality)
    shuffled_losses = rank_sort_loss(shuffled, shuffled_positives, quality)
    for one, other in zip(losses, shuffled_losses, strict=True):
        assert one.item() == pytest.approx(other.item(), abs=1e-12)
        assert_close(gradient(other, shuffled), gradient(one, logits)[order], 1e-9)


@settings(max_examples=100, deadline=None)
@given(small_problems(), st.sampled_from([0.0, 0.1, 0.5, 1.0, 7.0]))
def test_any_small_problem_agrees_with_the_loop_reference(problem, delta):
    logits, positives, quality = problem
    losses = rank_sort_loss(logits, positives, quality, delta=delta)
    ranking, sorting, ranking_gradient, sorting_gradient = reference.rank_sort(
        logits.tolist(), positives.tolist(), quality.tolist(), delta
    )
    assert_close(losses.ranking, ranking, 1e-9)
    assert_close(losses.sorting, sorting, 1e-9)
    assert_close(gradient(losses.ranking, logits), ranking_gradient, 1e-9)
    assert_close(gradient(losses.sorting, logits), sorting_gradient, 1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"logits": torch.zeros(2, 4)},
            r"logits: expected a one-dimensional float tensor, got .*\(2, 4\)",
        ),
        (
            {"logits": torch.zeros(8, dtype=torch.int64)},
            "logits: expected a one-dimensional float tensor",
        ),
        (
            {"positives": torch.tensor([1.0, 2, 3, 5])},
            "positives: expected a one-dimensional int64",
        ),
        ({"positives": torch.tensor([1, 2, 3, 8])}, r"positives: expected indices in \[0, 8\)"),
        ({"positives": torch.tensor([-1, 2, 3, 5])}, "got indices from -1 to 5"),
        ({"positives": torch.tensor([1, 2, 2, 5])}, "positives: expected unique"),
        (
            {"quality": torch.zeros(3)},
            "quality: expected .* .4,. .* one entry per positive, got .*.3,.",
        ),
        ({"quality": torch.tensor([0.1, 0.2, 0.3, 1.5])}, r"quality: expected values in \[0, 1\]"),
        ({"quality": torch.tensor([0.1, 0.2, 0.3, math.nan])}, "quality: expected values"),
        (
            {"quality": torch.zeros(4, device="meta")},
            "quality: expected a float tensor of shape .4,. on cpu",
        ),
        ({"delta": -0.5}, "delta: expected a finite number of at least 0, got -0.5"),
    ],
)
def test_bad_arguments_raise_value_error_with_the_expected_and_given_value(change, message):
    arguments = dict(zip(("logits", "positives", "quality"), ramp(), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        rank_sort_loss(**arguments)
