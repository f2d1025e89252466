import pytest
import torch
from torch.nn import functional

from ranking_det.labels import BACKGROUND, IGNORE
from ranking_det.losses import cross_entropy, focal

LABELS = torch.tensor([0, BACKGROUND, 2, IGNORE, 1])


def make_logits(classes=3, seed=0):
    logits = torch.randn(len(LABELS), classes, generator=torch.Generator().manual_seed(seed))
    return logits.requires_grad_()


def test_cross_entropy_equals_torch_cross_entropy_with_a_background_logit_of_0():
    logits, shift = make_logits(), torch.tensor([[4.0], [-2.0], [0.0], [1.0], [3.0]])
    scores = torch.cat([logits + shift, shift], dim=1)
    expected = functional.cross_entropy(
        scores, torch.tensor([0, 3, 2, -100, 1]), reduction="sum", ignore_index=-100
    )
    loss = cross_entropy(logits, LABELS)
    torch.testing.assert_close(loss, expected)
    gradient = torch.autograd.grad(loss, logits)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0])
    assert not gradient[3].any()


def test_cross_entropy_with_one_class_equals_the_binary_cross_entropy():
    logits, labels = make_logits(classes=1), LABELS.clamp(max=0)
    torch.testing.assert_close(
        cross_entropy(logits, labels), 2 * focal(logits, labels, alpha=0.5, gamma=0.0)
    )


def test_ignored_rows_may_be_infinite_and_a_batch_of_only_ignored_rows_gives_a_loss_of_0():
    logits = make_logits().detach()
    logits[3] = torch.tensor([torch.inf, -torch.inf, torch.nan])
    logits.requires_grad_()
    cross_entropy(logits, LABELS).backward()
    assert logits.grad.isfinite().all()
    ignored_loss = cross_entropy(logits, torch.full((5,), IGNORE))
    assert ignored_loss == 0 and ignored_loss.requires_grad


def test_half_precision_is_computed_in_single_precision():
    logits = make_logits().detach()
    loss = cross_entropy(logits.bfloat16(), LABELS)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy(logits.bfloat16().float(), LABELS))


def test_labels_out_of_range_raise_value_error():
    with pytest.raises(ValueError, match="labels"):
        cross_entropy(make_logits(), torch.tensor([0, 1, 2, 3, 0]))
