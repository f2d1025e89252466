import pytest
import torch

from ranking_det.criteria import MaskCriterion, dice_errors, mask_cross_entropies


def by_loops(logits, targets):
    errors = []
    for mask, target in zip(logits, targets):
        overlap = squares = 0.0
        for s, t in zip(mask.flatten().tolist(), target.flatten().tolist()):
            p = 1 / (1 + 2.718281828459045**-s)
            overlap += p * t
            squares += p * p + t * t
        errors.append(1 - 2 * overlap / (squares + 1e-5))
    return torch.tensor(errors)


def make(count=5, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, size, size, generator=generator).requires_grad_()
    return logits, (torch.rand(count, size, size, generator=generator) > 0.5).float()


def test_dice_is_its_definition():
    logits, targets = make()
    torch.testing.assert_close(dice_errors(logits, targets), by_loops(logits, targets))


def test_cross_entropy_is_the_mean_over_the_pixels():
    logits, targets = make()
    p = logits.detach().double().sigmoid()
    expected = -torch.where(targets > 0, p, 1 - p).log().flatten(1).mean(1).float()
    torch.testing.assert_close(mask_cross_entropies(logits.detach(), targets), expected)
    with pytest.raises(ValueError, match=r"targets: expected masks of the shape of logits"):
        mask_cross_entropies(logits, targets[:3])


def test_an_empty_target_gives_1_and_no_gradient():
    logits, targets = make()
    targets[2] = 0
    errors = dice_errors(logits, targets)
    assert errors[2] == 1
    errors.sum().backward()
    assert logits.grad.isfinite().all() and not logits.grad[2].any() and logits.grad[1].any()


def test_the_loss_is_the_mean_by_the_weights_brought_to_the_task_loss():
    logits, targets = make()
    weights, task = torch.tensor([0.1, 0.9, 0.0, 0.4, 0.7]), torch.tensor(0.3)
    errors = by_loops(logits, targets)
    mean = (weights * errors).sum() / weights.sum()
    assert MaskCriterion()(logits, targets, weights, task).item() == pytest.approx(0.3)
    plain = MaskCriterion(balanced=False, weight=2.0)(logits, targets, weights, task)
    torch.testing.assert_close(plain, 2 * mean)
    equal = MaskCriterion(weighted=False, balanced=False)(logits, targets, weights, task)
    torch.testing.assert_close(equal, errors.mean())
    # The balance is a factor that sends no gradient of its own.
    (balanced,) = torch.autograd.grad(MaskCriterion()(logits, targets, weights, task), logits)
    (unbalanced,) = torch.autograd.grad(plain / 2, logits)
    torch.testing.assert_close(balanced, unbalanced * 0.3 / mean)


@pytest.mark.parametrize("task", [0.0, 0.5])
def test_without_a_positive_it_is_zero_and_attached(task):
    logits = torch.zeros(0, 4, 4, requires_grad=True)
    loss = MaskCriterion()(logits, torch.zeros(0, 4, 4), torch.zeros(0), torch.tensor(task))
    assert loss == 0 and loss.requires_grad
    loss.backward()


def test_weights_or_a_task_loss_of_zero_leave_it_finite():
    logits, targets = make()
    assert MaskCriterion()(logits, targets, torch.zeros(5), torch.tensor(0.2)) == 0
    loss = MaskCriterion()(logits, targets, torch.ones(5), torch.tensor(0.0))
    torch.testing.assert_close(loss, by_loops(logits, targets).mean())


def test_half_precision_is_computed_in_single():
    logits, targets = make()
    half = dice_errors(logits.detach().bfloat16(), targets)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, dice_errors(logits.detach().bfloat16().float(), targets))


def test_shapes_that_do_not_fit_are_refused():
    logits, targets = make()
    with pytest.raises(ValueError, match=r"targets: expected masks of the shape of logits"):
        dice_errors(logits, targets[:3])
    with pytest.raises(ValueError, match="weights: expected one for each of the 5 masks"):
        MaskCriterion()(logits, targets, torch.ones(4), torch.tensor(1.0))
    with pytest.raises(ValueError, match="error: expected one of dice, cross_entropy, got 'bce'"):
        MaskCriterion("bce")
    with pytest.raises(ValueError, match="weight: expected a finite number of at least 0"):
        MaskCriterion(weight=-1.0)
