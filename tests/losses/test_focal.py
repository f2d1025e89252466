import math

import pytest
import torch
from torch.nn import functional

from ranking_det.losses import BACKGROUND, IGNORE, focal, quality_focal, varifocal

ALPHAS = [0.0, 0.25, 0.5, 1.0]
GAMMAS = [0.0, 0.5, 1.0, 2.0, 5.0]
QUALITY_LOSSES = [quality_focal, varifocal]


def batch(dtype=torch.float64, spread=2.0, rows=60, classes=7):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(rows, classes, dtype=torch.float64, generator=generator) * spread
    labels = torch.randint(-2, classes, (rows,), generator=generator)
    quality = torch.rand(int((labels >= 0).sum()), dtype=torch.float64, generator=generator)
    assert set(labels.tolist()) == set(range(-2, classes))
    return logits.to(dtype).requires_grad_(), labels, quality


def one_hot(logits, labels):
    """Make one-hot targets of all rows, in the dtype of the logits."""
    targets = torch.zeros_like(logits)
    rows = torch.nonzero(labels >= 0).squeeze(1)
    targets[rows, labels[rows]] = 1
    return targets


def gradient(value, logits):
    return torch.autograd.grad(value, logits, retain_graph=True)[0]


def assert_same(loss, expected, logits, **tolerances):
    torch.testing.assert_close(loss, expected, **tolerances)
    torch.testing.assert_close(gradient(loss, logits), gradient(expected, logits), **tolerances)


def extremes(dtype):
    values = [-3e4, -1e3, -120.0, -88.0, -17.0, 0.0, 17.0, 88.0, 120.0, 1e3, 3e4]
    return torch.tensor(values, dtype=dtype).reshape(-1, 1)


def extreme_batch(dtype):
    """Make a batch with each extreme logit once as a negative and once as a positive."""
    column = extremes(dtype)
    logits = torch.cat([column, column]).requires_grad_()
    labels = torch.full((len(logits),), BACKGROUND)
    labels[len(column) :] = 0
    return logits, labels


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_focal_agrees_with_fvcore_on_one_hot_targets_without_the_ignored_rows(alpha, gamma):
    fvcore = pytest.importorskip("fvcore.nn")
    logits, labels, _ = batch(torch.float32)
    is_used = labels != IGNORE
    expected = fvcore.sigmoid_focal_loss(
        logits[is_used], one_hot(logits, labels)[is_used], alpha=alpha, gamma=gamma, reduction="sum"
    )
    loss = focal(logits, labels, alpha=alpha, gamma=gamma)
    assert_same(loss, expected, logits, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_focal_agrees_with_a_loop_over_equation_5(alpha, gamma):
    logits, labels, _ = batch()
    expected = 0.0
    for row, label in zip(logits, labels.tolist(), strict=True):
        for c, logit in enumerate(row):
            if label != IGNORE:
                p_t = (logit if c == label else -logit).sigmoid()
                weight = alpha if c == label else 1 - alpha
                expected = expected - weight * (1 - p_t) ** gamma * p_t.log()
    assert_same(focal(logits, labels, alpha=alpha, gamma=gamma), expected, logits)


def test_focal_with_alpha_one_half_and_gamma_0_is_half_the_binary_cross_entropy():
    logits, labels, _ = batch()
    is_used = labels != IGNORE
    entropy = functional.binary_cross_entropy_with_logits(
        logits[is_used], one_hot(logits, labels)[is_used], reduction="sum"
    )
    assert_same(focal(logits, labels, alpha=0.5, gamma=0.0), entropy / 2, logits)


def test_focal_trains_only_positives_with_alpha_1_and_only_negatives_with_alpha_0():
    logits, labels, _ = batch()
    positive = one_hot(logits, labels).bool()
    assert not gradient(focal(logits, labels, alpha=1.0), logits)[~positive].any()
    negatives_gradient = gradient(focal(logits, labels, alpha=0.0), logits)
    assert not negatives_gradient[positive].any()
    assert (negatives_gradient[(labels != IGNORE)[:, None] & ~positive] > 0).all()


@pytest.mark.parametrize("ignored", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["focal", "quality_focal", "varifocal"])
def test_ignored_rows_do_not_change_value_or_gradient(name, ignored):
    logits, labels, quality = batch()
    arguments = () if name == "focal" else (quality,)
    loss = {"focal": focal, "quality_focal": quality_focal, "varifocal": varifocal}[name]
    changed_logits = logits.detach().clone()
    changed_logits[labels == IGNORE] = ignored
    changed_logits.requires_grad_()
    value, expected = loss(changed_logits, labels, *arguments), loss(logits, labels, *arguments)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient(value, changed_logits), gradient(expected, logits))
    assert not gradient(value, changed_logits)[labels == IGNORE].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_extreme_logits_have_finite_focal_losses_and_gradients(gamma, dtype):
    logits, labels = extreme_batch(dtype)
    for i in range(len(logits)):
        value = focal(logits[i : i + 1], labels[i : i + 1], alpha=0.5, gamma=gamma)
        slope = gradient(value, logits)
        assert value.isfinite() and value >= 0 and slope.isfinite().all()
        is_right = logits[i].item() > 0 if labels[i] == 0 else logits[i].item() < 0
        if abs(logits[i].item()) >= 100 and is_right:
            assert value.item() < 1e-12 and slope.abs().max().item() < 1e-12
        elif abs(logits[i].item()) >= 100:
            # Far on the wrong side: a weighted cross entropy, linear with slope alpha.
            assert value.item() == pytest.approx(abs(logits[i].item()) / 2, rel=1e-6)
            assert slope.abs().max().item() == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_logits_give_the_focal_loss_of_the_same_logits_in_single_precision(dtype):
    logits, labels, _ = batch(dtype)
    single = logits.detach().float().requires_grad_()
    value, expected = focal(logits, labels), focal(single, labels)
    assert value.dtype == torch.float32 and torch.equal(value, expected)
    assert torch.equal(gradient(value, logits), gradient(expected, single).to(dtype))


def test_focal_of_only_ignored_rows_is_a_zero_attached_to_the_graph():
    for rows in (0, 4):
        logits = torch.randn(rows, 3, requires_grad=True)
        value = focal(logits, torch.full((rows,), IGNORE))
        assert value.item() == 0
        assert torch.equal(gradient(value, logits), torch.zeros(rows, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": -0.1}, "alpha: expected a finite number of at least 0, got -0.1"),
        ({"alpha": 1.5}, r"alpha: expected a number in \[0, 1\], got 1.5"),
        ({"gamma": -1.0}, "gamma: expected a finite number of at least 0, got -1.0"),
        ({"gamma": math.nan}, "gamma: expected a finite number of at least 0, got nan"),
        ({"logits": torch.zeros(3)}, r"logits: expected a float tensor \(R, K\), got .*\(3,\)"),
        (
            {"labels": torch.tensor([0, 3])},
            r"labels: expected a class below 3, .* got labels from 0 to 3",
        ),
        (
            {"labels": torch.tensor([0, -3])},
            "labels: expected a class below 3, .* got labels from -3 to 0",
        ),
        ({"labels": torch.zeros(2)}, r"labels: expected an int64 tensor of shape \(2,\)"),
    ],
)
def test_bad_arguments_of_focal_raise_value_error_with_the_expected_and_given_value(
    change, message
):
    arguments = {"logits": torch.zeros(2, 3), "labels": torch.tensor([0, BACKGROUND])} | change
    with pytest.raises(ValueError, match=message):
        focal(**arguments)


def test_quality_focal_of_quality_1_is_twice_focal_of_alpha_one_half_for_any_beta():
    logits, labels, quality = batch()
    for beta in (0.0, 0.5, 1.0, 2.0):
        loss = quality_focal(logits, labels, torch.ones_like(quality), beta=beta)
        assert_same(loss, 2 * focal(logits, labels, alpha=0.5, gamma=beta), logits)


@pytest.mark.parametrize("loss", QUALITY_LOSSES)
def test_a_positive_of_quality_0_counts_like_a_negative(loss):
    logits, labels, quality = batch()
    zero_quality = torch.arange(len(quality)) % 2 == 0
    rows = torch.nonzero(labels >= 0).squeeze(1)
    background = labels.clone()
    background[rows[zero_quality]] = BACKGROUND
    value = loss(logits, labels, quality.masked_fill(zero_quality, 0.0))
    assert_same(value, loss(logits, background, quality[~zero_quality]), logits)


def test_quality_focal_is_0_with_gradient_0_where_each_score_is_its_quality():
    logits = torch.tensor([[-0.5], [0.0], [1.5]], dtype=torch.float64, requires_grad=True)
    labels = torch.zeros(3, dtype=torch.int64)
    loss = quality_focal(logits, labels, logits.detach().sigmoid().squeeze(1))
    assert loss.item() == 0
    assert not gradient(loss, logits).any()


def test_varifocal_has_gradient_0_where_the_score_of_each_positive_is_its_quality():
    logits = torch.tensor([[-0.5], [0.0], [1.5]], dtype=torch.float64, requires_grad=True)
    labels = torch.zeros(3, dtype=torch.int64)
    loss = varifocal(logits, labels, logits.detach().sigmoid().squeeze(1))
    assert gradient(loss, logits).abs().max().item() < 1e-15


def test_varifocal_of_quality_1_alpha_1_and_gamma_0_is_the_binary_cross_entropy():
    logits, labels, quality = batch()
    is_used = labels != IGNORE
    entropy = functional.binary_cross_entropy_with_logits(
        logits[is_used], one_hot(logits, labels)[is_used], reduction="sum"
    )
    loss = varifocal(logits, labels, torch.ones_like(quality), alpha=1.0, gamma=0.0)
    assert_same(loss, entropy, logits)


@pytest.mark.parametrize("loss", QUALITY_LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_extreme_logits_have_finite_quality_losses_and_gradients(loss, dtype):
    logits, labels = extreme_batch(dtype)
    count = int((labels >= 0).sum())
    for quality in (0.0, 0.3, 1.0):
        value = loss(logits, labels, torch.full((count,), quality))
        assert value.isfinite() and gradient(value, logits).isfinite().all()
    if loss is quality_focal:
        for beta in (0.0, 0.5, 1.0):
            value = loss(logits, labels, torch.full((count,), 0.3), beta=beta)
            assert value.isfinite() and gradient(value, logits).isfinite().all()
