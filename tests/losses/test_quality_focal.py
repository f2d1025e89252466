import pytest
import torch
from torch.nn import functional

from ranking_det.losses import BACKGROUND, IGNORE, quality_focal, varifocal


def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 5, dtype=torch.float64, generator=generator).requires_grad_()
    labels = torch.randint(-2, 5, (50,), generator=generator)
    quality = torch.rand(int((labels >= 0).sum()), dtype=torch.float64, generator=generator)
    return logits, labels, quality


def test_quality_focal_agrees_with_a_loop_over_entries():
    logits, labels, quality = batch()
    expected, rest = 0.0, iter(quality)
    for row, label in zip(logits, labels.tolist(), strict=True):
        target = torch.zeros_like(row)
        if label >= 0:
            target[label] = next(rest)
        if label != IGNORE:
            p = row.sigmoid()
            entropy = -(target * p.log() + (1 - target) * (1 - p).log())
            expected = expected + ((target - p).abs() ** 2 * entropy).sum()
    torch.testing.assert_close(quality_focal(logits, labels, quality), expected)


def test_varifocal_agrees_with_a_loop_over_entries():
    logits, labels, quality = batch()
    expected, rest = 0.0, iter(quality)
    for row, label in zip(logits, labels.tolist(), strict=True):
        q = next(rest) if label >= 0 else None
        for c, logit in enumerate(row):
            p = logit.sigmoid()
            if label != IGNORE and c == label:
                expected = expected - q * (q * p.log() + (1 - q) * (1 - p).log())
            elif label != IGNORE:
                expected = expected - 0.75 * p.detach() ** 2 * (1 - p).log()
    loss = varifocal(logits, labels, quality)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, logits)[0], torch.autograd.grad(expected, logits)[0]
    )


def test_quality_focal_with_beta_0_is_the_cross_entropy():
    logits, labels, quality = batch()
    is_used = labels != IGNORE
    targets = torch.zeros_like(logits)
    rows = torch.nonzero(labels >= 0).squeeze(1)
    targets[rows, labels[rows]] = quality
    expected = functional.binary_cross_entropy_with_logits(
        logits[is_used], targets[is_used], reduction="sum"
    )
    torch.testing.assert_close(quality_focal(logits, labels, quality, beta=0.0), expected)


def test_quality_focal_with_quality_1_is_focal_loss_without_alpha():
    ops = pytest.importorskip("torchvision.ops")
    logits, labels, quality = batch()
    is_used = labels != IGNORE
    targets = torch.zeros_like(logits)
    rows = torch.nonzero(labels >= 0).squeeze(1)
    targets[rows, labels[rows]] = 1.0
    expected = ops.sigmoid_focal_loss(logits[is_used], targets[is_used], alpha=-1, reduction="sum")
    loss = quality_focal(logits, labels, torch.ones_like(quality))
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("loss", [quality_focal, varifocal])
def test_empty_and_half_precision_batches_give_finite_gradients(loss):
    logits, labels, quality = batch()
    half = logits.detach().to(torch.bfloat16).requires_grad_()
    value = loss(half, labels, quality.float())
    assert value.dtype == torch.float32
    assert torch.autograd.grad(value, half)[0].isfinite().all()
    for only in (BACKGROUND, IGNORE):
        value = loss(logits, torch.full_like(labels, only), quality[:0])
        assert torch.autograd.grad(value, logits)[0].isfinite().all()
    no_rows = torch.zeros(0, 5, requires_grad=True)
    assert loss(no_rows, labels[:0], quality[:0]).item() == 0


@pytest.mark.parametrize("loss", [quality_focal, varifocal])
def test_one_quality_too_many_raises_value_error(loss):
    logits, labels, quality = batch()
    with pytest.raises(ValueError, match="quality: expected .* one entry per positive"):
        loss(logits, labels, torch.cat([quality, quality[:1]]))
