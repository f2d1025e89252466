import pytest
import torch

from ranking_det.losses import dice_errors, mask_cross_entropies


def dice_by_loop(logits, targets, eps=1e-5):
    errors = []
    for mask, target in zip(logits, targets):
        overlap = squares = 0.0
        for s, t in zip(mask.flatten().tolist(), target.flatten().tolist()):
            p = 1 / (1 + 2.718281828459045**-s)
            overlap += p * t
            squares += p * p + t * t
        errors.append(1 - 2 * overlap / (squares + eps))
    return torch.tensor(errors)


def make_masks(count=5, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, size, size, generator=generator).requires_grad_()
    return logits, (torch.rand(count, size, size, generator=generator) > 0.5).float()


def test_dice_agrees_with_a_loop_over_its_definition():
    logits, targets = make_masks()
    torch.testing.assert_close(dice_errors(logits, targets), dice_by_loop(logits, targets))
    errors = dice_errors(logits, targets, eps=2.0)
    torch.testing.assert_close(errors, dice_by_loop(logits, targets, eps=2.0))
    with pytest.raises(ValueError, match="eps: expected a finite number above 0, got 0.0"):
        dice_errors(logits, targets, eps=0.0)


def test_cross_entropy_is_the_mean_over_the_pixels():
    logits, targets = make_masks()
    p = logits.detach().double().sigmoid()
    expected = -torch.where(targets > 0, p, 1 - p).log().flatten(1).mean(1).float()
    torch.testing.assert_close(mask_cross_entropies(logits.detach(), targets), expected)
    with pytest.raises(ValueError, match=r"masks: expected the same shape .Q, h, w. as logits"):
        mask_cross_entropies(logits, targets[:3])


def test_cross_entropy_with_areas_is_the_sum_over_the_pixels_divided_by_the_area():
    logits, targets = make_masks()
    areas = torch.tensor([1.0, 2.5, 16.0, 7.0, 3.0])
    expected = mask_cross_entropies(logits, targets) * 16 / areas
    torch.testing.assert_close(mask_cross_entropies(logits, targets, areas), expected)


def test_an_empty_target_mask_gives_a_dice_error_of_1_without_gradient():
    logits, targets = make_masks()
    targets[2] = 0
    errors = dice_errors(logits, targets)
    assert errors[2] == 1
    errors.sum().backward()
    assert logits.grad.isfinite().all() and not logits.grad[2].any() and logits.grad[1].any()


def test_half_precision_is_computed_in_single_precision():
    logits, targets = make_masks()
    half = dice_errors(logits.detach().bfloat16(), targets)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, dice_errors(logits.detach().bfloat16().float(), targets))


def test_masks_and_logits_of_different_shapes_raise_value_error():
    logits, targets = make_masks()
    with pytest.raises(ValueError, match=r"masks: expected the same shape .Q, h, w. as logits"):
        dice_errors(logits, targets[:3])
