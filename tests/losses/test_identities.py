import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking_det.losses import alrp_loss, ap_loss, rank_sort_loss
from tests.losses.cases import assert_close, random_case, small_problems

DELTAS = [0.0, 0.25, 1.0]
OFFSETS = st.integers(-640_000, 640_000).map(lambda n: n / 64) | st.sampled_from([-1e4, 1e4])
SCALES = st.sampled_from([-2.0, 0.0, 0.5, 1.0, 65536.0])
EPSILON = 1e-5


def rank_sort(logits, positives, quality, delta):
    losses = rank_sort_loss(logits, positives, quality, delta=delta)
    return [(losses.ranking, logits), (losses.sorting, logits)]


def alrp(logits, positives, quality, delta):
    # The errors of a GIoU loss go up to 2.
    errors = (2 * (1 - quality)).requires_grad_()
    losses = alrp_loss(logits, positives, errors, delta=delta)
    return [(losses.classification, logits), (losses.localization, errors)]


def average_precision(**options):
    def outputs(logits, positives, quality, delta):
        return [(ap_loss(logits, positives, delta=delta, **options), logits)]

    return outputs


AP = {
    "ap step": average_precision(),
    "ap step, not interpolated": average_precision(interpolated=False),
    "ap sigmoid": average_precision(distance="sigmoid"),
    "ap sigmoid, not interpolated": average_precision(distance="sigmoid", interpolated=False),
}
# Each function returns pairs of a loss and the leaf that its gradient belongs to.
LOSSES = {"rank sort": rank_sort, "alrp": alrp, **AP}


def each(*names):
    return pytest.mark.parametrize(
        ("loss", "delta"),
        [
            pytest.param(LOSSES[name], delta, id=f"{name}-{delta}")
            for name in names
            # The sigmoid does not use delta.
            for delta in (DELTAS[:1] if "sigmoid" in name else DELTAS)
        ],
    )


every_loss = each(*LOSSES)
every_ap = each(*AP)
every_ap_and_alrp = each("alrp", *AP)
every_delta = pytest.mark.parametrize("delta", DELTAS)
fifteen_examples = settings(max_examples=15, deadline=None)


def values_and_gradients(outputs):
    """List the detached value and gradient of each output."""
    results = []
    for value, leaf in outputs:
        (gradient,) = torch.autograd.grad(value, leaf, retain_graph=True)
        results += [value.detach(), gradient]
    return results


def assert_all_close(actual, expected, tolerance=1e-9):
    for one, other in zip(actual, expected, strict=True):
        assert one.shape == other.shape
        assert_close(one, other, tolerance)


def with_negatives(case, *values):
    added_logits = torch.tensor(values, dtype=torch.float64)
    return case._replace(logits=torch.cat([case.logits.detach(), added_logits]).requires_grad_())


@every_ap
@fifteen_examples
@given(problem=small_problems())
def test_gradients_of_every_ap_loss_sum_to_0_and_those_of_the_negatives_to_the_value(
    loss, delta, problem
):
    value, gradient = values_and_gradients(loss(*problem, delta))
    assert abs(gradient.sum().item()) < 1e-9
    gradient[problem[1]] = 0
    assert (gradient > -1e-12).all()
    assert gradient.sum().item() == pytest.approx(value.item(), abs=1e-9)


@every_delta
@fifteen_examples
@given(problem=small_problems())
def test_gradients_of_the_negatives_in_alrp_sum_to_the_mean_error_over_the_rank(delta, problem):
    def h(x):
        return float(x >= 0) if delta == 0 else min(1.0, max(0.0, 0.5 + x / delta / 2))

    logits, positives, quality = problem
    errors = dict(zip(positives.tolist(), (2 * (1 - quality)).tolist(), strict=True))
    scores = logits.tolist()
    expected = 0.0
    for i in errors:
        false_positives = others = errors_above = 0.0
        for j in range(len(scores)):
            if j not in errors:
                false_positives += h(scores[j] - scores[i])
            elif j != i:
                others += h(scores[j] - scores[i])
                errors_above += h(scores[j] - scores[i]) * errors[j]
        if false_positives > EPSILON:
            rank = 1 + others + false_positives
            expected += (errors_above + false_positives) / rank / len(errors)

    _, gradient, _, _ = values_and_gradients(alrp(*problem, delta))
    assert abs(gradient.sum().item()) < 1e-9
    gradient[positives] = 0
    assert gradient.sum().item() == pytest.approx(expected, abs=1e-9)


@every_loss
@fifteen_examples
@given(problem=small_problems(), offset=OFFSETS)
def test_a_shift_of_all_logits_changes_neither_value_nor_gradient(loss, delta, problem, offset):
    logits, positives, quality = problem
    # Round to a grid on which the shift is exact.
    logits = ((logits.detach() * 64).round() / 64).requires_grad_()
    shifted = (logits.detach() + offset).requires_grad_()
    assert torch.equal(shifted - offset, logits)
    assert_all_close(
        values_and_gradients(loss(shifted, positives, quality, delta)),
        values_and_gradients(loss(logits, positives, quality, delta)),
    )


@every_loss
@fifteen_examples
@given(
    problem=small_problems(),
    random=st.randoms(use_true_random=False),
)
def test_a_permutation_of_logits_and_of_positives_permutes_the_gradients(
    loss, delta, problem, random
):
    logits, positives, quality = problem
    order = torch.tensor(random.sample(range(len(logits)), len(logits)))
    positive_order = torch.tensor(random.sample(range(len(positives)), len(positives)))
    shuffled = logits.detach()[order].requires_grad_()
    shuffled_positives = torch.argsort(order)[positives][positive_order]
    expected = values_and_gradients(loss(*problem, delta))
    outputs = loss(shuffled, shuffled_positives, quality[positive_order], delta)
    for index, (_, leaf) in enumerate(outputs):
        position = 2 * index + 1
        expected[position] = expected[position][order if leaf is shuffled else positive_order]
    assert_all_close(values_and_gradients(outputs), expected)


@every_loss
@fifteen_examples
@given(problem=small_problems(), scales=st.tuples(SCALES, SCALES))
def test_a_factor_on_one_output_scales_its_own_gradient_only(loss, delta, problem, scales):
    outputs = loss(*problem, delta)
    inputs = {id(leaf): leaf for _, leaf in outputs}
    expected = {key: torch.zeros_like(leaf) for key, leaf in inputs.items()}
    total = 0.0
    for (value, leaf), scale in zip(outputs, scales, strict=False):
        (gradient,) = torch.autograd.grad(value, leaf, retain_graph=True)
        expected[id(leaf)] += scale * gradient
        total = total + scale * value
    actual = torch.autograd.grad(total, list(inputs.values()))
    assert_all_close(actual, expected.values(), 1e-12)


@every_ap_and_alrp
def test_ap_and_alrp_ignore_negatives_at_minus_infinity(loss, delta):
    case = random_case()
    padded = with_negatives(case, *[-math.inf] * 30)
    actual = values_and_gradients(loss(*padded, delta))
    assert not actual[1][-30:].any()
    actual[1] = actual[1][:-30]
    assert_all_close(actual, values_and_gradients(loss(*case, delta)), 1e-12)


@every_ap_and_alrp
def test_negatives_at_plus_infinity_count_like_huge_logits_in_ap_and_alrp(loss, delta):
    case = random_case()
    infinite = values_and_gradients(loss(*with_negatives(case, *[math.inf] * 5), delta))
    huge = values_and_gradients(loss(*with_negatives(case, *[1e6] * 5), delta))
    assert_all_close(infinite, huge)
    assert (infinite[1][-5:] > 0).all()


@every_ap_and_alrp
def test_ap_and_alrp_with_only_infinite_negatives_have_finite_values_and_gradients(loss, delta):
    case = random_case(3, 0)
    for value in (-math.inf, math.inf):
        padded = with_negatives(case, value, value)
        results = values_and_gradients(loss(*padded, delta))
        assert all(result.isfinite().all() for result in results)
        assert results[1][-2:].any() == (value > 0)
        assert abs(results[1].sum().item()) < 1e-12


@every_ap_and_alrp
@pytest.mark.parametrize(
    "other_logits", [[], [-math.inf, math.inf]], ids=["alone", "with infinities"]
)
def test_a_negative_that_is_nan_makes_every_part_of_ap_and_alrp_nan(loss, delta, other_logits):
    case = with_negatives(random_case(), math.nan, *other_logits)
    assert all(value.isnan() for value, _ in loss(*case, delta))


@every_loss
def test_a_nan_logit_makes_a_loss_nan_even_without_positives(loss, delta):
    logits = random_case(0, 6).logits.detach().clone()
    logits[1] = math.inf
    nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    for value, leaf in loss(logits.clone().requires_grad_(), *nothing, delta):
        assert value == 0 and not torch.autograd.grad(value, leaf, retain_graph=True)[0].any()
    logits[4] = math.nan
    assert any(value.isnan() for value, _ in loss(logits.requires_grad_(), *nothing, delta))


@every_ap_and_alrp
@pytest.mark.parametrize("non_finite", [math.nan, math.inf, -math.inf])
def test_a_positive_that_is_not_finite_makes_every_part_of_ap_and_alrp_nan(loss, delta, non_finite):
    case = random_case()
    for i in (0, 17, 39):
        logits = case.logits.detach().clone()
        logits[case.positives[i]] = non_finite
        assert all(value.isnan() for value, _ in loss(logits.requires_grad_(), *case[1:], delta))


@every_loss
@pytest.mark.parametrize(
    ("dtype", "rounding"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)], ids=str
)
def test_16_bit_logits_give_the_float64_value_of_the_rounded_logits(loss, delta, dtype, rounding):
    for seed, spread in enumerate((0.3, 1.0, 5.0, 50.0)):
        case = random_case(20, 180, spread=spread, seed=seed)
        rounded = case.logits.detach().to(dtype)
        half = loss(rounded.requires_grad_(), *case[1:], delta)
        exact = loss(rounded.detach().double().requires_grad_(), *case[1:], delta)
        for (value, leaf), (same, wide) in zip(half, exact, strict=True):
            assert value.dtype == torch.float32
            assert value.item() == pytest.approx(same.item(), rel=1e-6, abs=1e-7)
            (actual,) = torch.autograd.grad(value, leaf, retain_graph=True)
            (expected,) = torch.autograd.grad(same, wide, retain_graph=True)
            assert actual.dtype == leaf.dtype
            # The gradient is rounded once. Below 6e-5 float16 has fewer digits.
            torch.testing.assert_close(actual.double(), expected, rtol=1.01 * rounding, atol=2**-24)
