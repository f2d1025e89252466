"""Localization tasks in a criterion: boxes, masks, or both."""

import dataclasses

import pytest
import torch

from ranking_det.criteria import (
    ALRPCriterion,
    ConstantBalance,
    Criterion,
    Focal,
    GIoU,
    HistoryBalance,
    MaskCrossEntropy,
    MaskDice,
    PositiveCount,
    RankSort,
    UniformWeight,
)
from ranking_det.criteria.instance_weights import ScoreWeight
from ranking_det.labels import BACKGROUND
from ranking_det.losses import alrp_loss, dice_errors, mask_cross_entropies, rank_sort_loss
from tests.criteria.cases import LABELS, make_candidates, make_masks, rank_sort

INDEX = [2, 0, 2, 1]  # one of the four positives has two masks, and one has none


def with_masks(index=INDEX, labels=LABELS, **fields):
    return dataclasses.replace(make_candidates(labels), masks=make_masks(index), **fields)


def masked_losses(task, candidates=None, instance_weight=None):
    """Return the output of a Rank & Sort criterion on boxes and masks."""
    criterion = rank_sort(localization=[GIoU(), task], instance_weight=instance_weight)
    return criterion(candidates or with_masks())


def test_a_mask_has_the_weight_of_its_positive_and_the_mask_loss_is_balanced_to_the_ranking():
    candidates = with_masks()
    output = masked_losses(MaskDice(), candidates)
    assert list(output.losses) == ["loss_rank", "loss_sort", "loss_box", "loss_mask"]
    torch.testing.assert_close(output.losses["loss_mask"].detach(), output.task_loss)
    masks, weights = candidates.masks, output.weights[INDEX]
    mean = (weights * dice_errors(masks.logits, masks.masks)).sum() / weights.sum()
    plain = masked_losses(MaskDice(balanced=False, weight=2.0)).losses["loss_mask"]
    torch.testing.assert_close(plain, 2 * mean)
    # The balance is a constant factor: no gradient flows through it.
    (balanced,) = torch.autograd.grad(output.losses["loss_mask"], masks.logits, retain_graph=True)
    (unbalanced,) = torch.autograd.grad(mean, masks.logits)
    torch.testing.assert_close(balanced, unbalanced * output.task_loss / mean.detach())


def test_mask_cross_entropy_by_area_needs_the_areas_of_the_objects():
    candidates, task = with_masks(), MaskCrossEntropy(by_area=True, weighted=False, balanced=False)
    with pytest.raises(ValueError, match="candidates.masks.areas: expected the areas .* got None"):
        masked_losses(task, candidates)
    areas = torch.tensor([1.0, 2.0, 4.0, 8.0])
    masks = dataclasses.replace(candidates.masks, areas=areas)
    loss = masked_losses(task, dataclasses.replace(candidates, masks=masks)).losses["loss_mask"]
    errors = mask_cross_entropies(masks.logits, masks.masks, areas)
    torch.testing.assert_close(loss, errors.mean())
    masks = dataclasses.replace(masks, areas=areas[:3])
    with pytest.raises(ValueError, match="candidates.masks.areas: expected"):
        dataclasses.replace(candidates, masks=masks)


def test_unweighted_masks_have_equal_weights():
    candidates = with_masks()
    loss = masked_losses(MaskCrossEntropy(weighted=False, balanced=False), candidates)
    errors = mask_cross_entropies(candidates.masks.logits, candidates.masks.masks)
    torch.testing.assert_close(loss.losses["loss_mask"], errors.mean())


def test_masks_do_not_change_the_other_losses():
    plain, masked = rank_sort()(make_candidates(LABELS)), masked_losses(MaskDice())
    for name, loss in plain.losses.items():
        assert torch.equal(loss, masked.losses[name])
    assert plain.metrics == masked.metrics


@pytest.mark.parametrize("labels", [LABELS, torch.full((6,), BACKGROUND)])
def test_the_mask_loss_is_a_zero_attached_to_the_graph_without_masks(labels):
    candidates = with_masks([], labels)
    loss = masked_losses(MaskDice(), candidates).losses["loss_mask"]
    assert loss == 0 and loss.requires_grad
    loss.backward()


def test_the_mask_loss_is_finite_for_weights_or_a_task_loss_of_zero():
    class NoWeight(UniformWeight):
        def forward(self, candidates):
            return 0 * super().forward(candidates)

    assert masked_losses(MaskDice(), instance_weight=NoWeight()).losses["loss_mask"] == 0
    # All positives are far above all negatives and have the same quality.
    sorted_logits = torch.where(LABELS[:, None] >= 0, 50.0, -50.0).expand(-1, 4).clone()
    for row, label in enumerate(LABELS.clamp(min=0).tolist()):
        sorted_logits[row, torch.arange(4) != label] = -50.0
    candidates = with_masks(logits=sorted_logits, continuous_labels=torch.ones(4))
    output = masked_losses(MaskDice(weighted=False), candidates)
    assert output.task_loss == 0
    errors = dice_errors(candidates.masks.logits, candidates.masks.masks)
    torch.testing.assert_close(output.losses["loss_mask"], errors.mean())


def test_positives_without_boxes_are_sorted_by_the_dice_of_their_masks():
    candidates = dataclasses.replace(with_masks(), boxes=None)
    output = rank_sort(localization=MaskDice())(candidates)
    assert list(output.losses) == ["loss_rank", "loss_sort", "loss_mask"]
    assert list(output.metrics) == ["num_positives", "negatives_per_positive", "mean_dice"]
    dice = 1 - dice_errors(candidates.masks.logits, candidates.masks.masks).detach()
    quality = torch.stack([dice[1], dice[3], (dice[0] + dice[2]) / 2, torch.tensor(0.0)])
    torch.testing.assert_close(candidates.overlap, quality)
    torch.testing.assert_close(output.metrics["mean_dice"], quality.mean())
    expected = rank_sort_loss(*candidates.entries(), quality)
    torch.testing.assert_close(output.losses["loss_sort"], expected.sorting)
    torch.testing.assert_close(output.weights, ScoreWeight()(make_candidates(LABELS)))
    sum(output.losses.values()).backward()
    assert candidates.logits.grad.any() and candidates.masks.logits.grad.any()


def test_rank_scope_image_sorts_the_positives_of_each_image_by_their_masks():
    candidates = dataclasses.replace(with_masks(), boxes=None)
    output = rank_sort(localization=MaskDice(), rank_scope="image")(candidates)
    expected = rank_sort(rank_scope="image")(
        dataclasses.replace(make_candidates(LABELS), continuous_labels=candidates.overlap)
    )
    torch.testing.assert_close(output.losses["loss_sort"], expected.losses["loss_sort"])


def test_continuous_labels_take_precedence_over_the_overlap():
    labels = torch.tensor([0.2, 0.9, 0.4, 0.1])
    candidates = with_masks(continuous_labels=labels)
    expected = rank_sort_loss(*candidates.entries(), labels)
    losses = Criterion(classification=RankSort())(candidates).losses
    torch.testing.assert_close(losses["loss_sort"], expected.sorting)


def test_the_mask_loss_is_a_mean_over_the_masks_even_with_a_normalizer():
    candidates = with_masks()
    criterion = Criterion(
        classification=Focal(),
        localization=[GIoU(), MaskCrossEntropy(weighted=False, balanced=False, weight=6.0)],
        balance=ConstantBalance(2.0),
        normalizer=PositiveCount(),
    )
    errors = mask_cross_entropies(candidates.masks.logits, candidates.masks.masks)
    torch.testing.assert_close(criterion(candidates).losses["loss_mask"], 6 * errors.mean())


def test_alrp_trains_masks_as_an_additional_task_with_its_own_balance():
    plain = ALRPCriterion(balance=HistoryBalance(period=9))(make_candidates(LABELS))
    tasks = [GIoU(), MaskDice()]
    output = ALRPCriterion(balance=HistoryBalance(period=9), localization=tasks)(with_masks())
    assert list(output.losses) == ["loss_cls", "loss_box", "loss_mask"]
    torch.testing.assert_close(output.losses["loss_box"], plain.losses["loss_box"])
    torch.testing.assert_close(output.losses["loss_mask"].detach(), output.task_loss)


def test_alrp_of_masks_alone_takes_the_mean_error_of_each_positive():
    candidates = dataclasses.replace(with_masks(), boxes=None)
    balance = ConstantBalance(1.0)
    criterion = ALRPCriterion(balance=HistoryBalance(period=9), localization=MaskDice(), tau=0.4)
    output = criterion(candidates)
    errors = dice_errors(candidates.masks.logits, candidates.masks.masks)
    mean = torch.stack([errors[1], errors[3], (errors[0] + errors[2]) / 2, torch.tensor(1.0)])
    expected = alrp_loss(*candidates.entries(), mean / 1.2)
    torch.testing.assert_close(output.losses["loss_cls"], expected.classification)
    criterion.localization[0].balance = balance
    losses = criterion(candidates).losses
    assert list(losses) == ["loss_cls", "loss_mask"]
    torch.testing.assert_close(losses["loss_mask"], expected.localization)


def test_the_epsilon_of_the_dice_loss_is_an_argument():
    candidates = dataclasses.replace(with_masks(), boxes=None)
    errors = dice_errors(candidates.masks.logits, candidates.masks.masks, eps=3.0)
    torch.testing.assert_close(MaskDice(eps=3.0)(candidates), errors)


def test_a_negative_weight_or_epsilon_raises_value_error():
    with pytest.raises(ValueError, match="weight: expected a finite number of at least 0"):
        MaskDice(weight=-1.0)
    with pytest.raises(ValueError, match="eps: expected a finite number above 0, got -1.0"):
        MaskDice(eps=-1.0)
