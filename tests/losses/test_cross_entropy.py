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


def mined_by_loop(logits, labels, image, ratio):
    """Sum the losses of the positives, and of the hardest negatives of each image."""
    scores = torch.cat([logits, torch.zeros(len(logits), 1)], dim=1).log_softmax(1)
    total = 0.0
    for i in set(image.tolist()):
        rows = [r for r in range(len(labels)) if image[r] == i]
        positives = [-scores[r, labels[r]] for r in rows if labels[r] >= 0]
        negatives = sorted((-scores[r, -1] for r in rows if labels[r] == BACKGROUND), reverse=True)
        total += sum(positives) + sum(
            negatives[: ratio * len(positives)] if positives else negatives
        )
    return torch.as_tensor(total)


@pytest.mark.parametrize("ratio", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_hard_negative_mining_agrees_with_a_loop_over_the_images(ratio, seed):
    generator = torch.Generator().manual_seed(seed)
    image = torch.tensor([0] * 9 + [1] * 5 + [3] * 12 + [4] * 4)  # image 2 has no rows
    labels = torch.randint(BACKGROUND, 2, (30,), generator=generator)
    labels[torch.rand(30, generator=generator) < 0.5] = BACKGROUND
    labels[torch.rand(30, generator=generator) < 0.2] = IGNORE
    labels[9:14] = BACKGROUND  # no positive
    labels[26:] = 1  # no negative
    logits = torch.randn(30, 3, generator=generator).requires_grad_()
    loss = cross_entropy(logits, labels, negatives_per_positive=ratio, image=image)
    expected = mined_by_loop(logits, labels, image, ratio)
    torch.testing.assert_close(loss, expected)
    gradients = (torch.autograd.grad(value, logits)[0] for value in (loss, expected))
    torch.testing.assert_close(*gradients)


def test_hard_negative_mining_of_equal_losses_counts_the_right_number_and_none_without_rows():
    labels = torch.tensor([0] + [BACKGROUND] * 10)
    loss = cross_entropy(torch.zeros(11, 1), labels, negatives_per_positive=3)
    torch.testing.assert_close(loss, 4 * torch.tensor(2.0).log())
    assert cross_entropy(torch.zeros(0, 1), labels[:0], negatives_per_positive=3) == 0
    with pytest.raises(ValueError, match="negatives_per_positive: expected an integer of at least"):
        cross_entropy(torch.zeros(11, 1), labels, negatives_per_positive=0)


def test_labels_out_of_range_raise_value_error():
    with pytest.raises(ValueError, match="labels"):
        cross_entropy(make_logits(), torch.tensor([0, 1, 2, 3, 0]))
