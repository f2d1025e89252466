import math

import pytest
import torch

from ranking_det.losses import (
    BACKGROUND,
    IGNORE,
    class_specific_ranking_loss,
    global_ranking_loss,
    group_negatives,
    hardest_negatives,
    iou_guided_ranking_loss,
)
from ranking_det.losses.kernels import constants
from tests.losses.cases import assert_close, gradient
from tests.losses.pairs import DISTANCES, by_pair_matrix, iou_guided_by_loop


def samples(foreground=30, background=50, spread=1.0, offset=0.0):
    generator = torch.Generator().manual_seed(foreground)
    return [
        (
            torch.randn(n, dtype=torch.float64, generator=generator) * spread + offset
        ).requires_grad_()
        for n in (foreground, background)
    ]


@pytest.mark.parametrize("reweight", [True, False])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("shape", [(30, 50), (1, 1), (1, 7), (700, 900)])
def test_global_loss_agrees_with_the_full_pair_matrix(shape, distance, reweight):
    foreground, background = samples(*shape)
    loss = global_ranking_loss(foreground, background, distance=distance, reweight=reweight)
    expected = by_pair_matrix(foreground, background, distance, reweight)
    assert_close(loss, expected, 1e-12)
    for x in (foreground, background):
        assert_close(gradient(loss, x), gradient(expected, x), 1e-12)


def test_published_example_of_the_global_loss_matches_to_the_printed_digits():
    foreground = torch.tensor([0.7, 0.4], dtype=torch.float64, requires_grad=True)
    background = torch.tensor([0.5, 0.2, 0.1], dtype=torch.float64, requires_grad=True)
    loss = global_ranking_loss(foreground, background)
    assert loss.item() == pytest.approx(0.814852, abs=6e-7)
    foreground_gradient, background_gradient = (
        gradient(loss, foreground),
        gradient(loss, background),
    )
    assert foreground_gradient.tolist() == pytest.approx([-0.288738, -0.526114], abs=6e-7)
    assert background_gradient.tolist() == pytest.approx([0.407805, 0.223808, 0.183239], abs=6e-7)


@pytest.mark.parametrize("distance", DISTANCES)
def test_global_loss_is_finite_for_logits_far_in_the_wrong_order(distance):
    foreground, background = (x.detach().float() for x in samples(offset=0.0))
    foreground, background = (foreground - 500).requires_grad_(), background.requires_grad_()
    for reweight in (True, False):
        loss = global_ranking_loss(foreground, background, distance=distance, reweight=reweight)
        assert loss.isfinite()
        assert gradient(loss, foreground).isfinite().all()
        in_order = global_ranking_loss(background, foreground, distance=distance, reweight=reweight)
        assert in_order.isfinite() and gradient(in_order, foreground).isfinite().all()


def test_no_pairs_give_zeros_attached_to_the_graph():
    empty = torch.zeros(0, requires_grad=True)
    three_scores = torch.ones(3, requires_grad=True)
    for pair in ((empty, three_scores), (three_scores, empty), (empty, empty)):
        loss = global_ranking_loss(*pair)
        assert loss.item() == 0 and loss.requires_grad
    scores = torch.ones(3, 2, requires_grad=True)
    loss = class_specific_ranking_loss(scores, torch.tensor([BACKGROUND, IGNORE, BACKGROUND]))
    assert loss.item() == 0 and not gradient(loss, scores).any()
    groups = torch.arange(3)
    loss = iou_guided_ranking_loss(three_scores, torch.rand(3), groups)
    assert loss.item() == 0 and not gradient(loss, three_scores).any()
    loss = iou_guided_ranking_loss(empty, torch.zeros(0), groups[:0])
    assert loss.item() == 0 and loss.requires_grad


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("negatives", ["group", "ohem"])
def test_class_specific_loss_is_the_sum_of_global_losses_in_each_class(negatives, distance):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(60, 4, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(-2, 3, (60,), generator=generator)
    loss = class_specific_ranking_loss(
        scores, labels, negatives=negatives, ratio=2, groups=4, distance=distance
    )
    expected = 0.0
    for c in range(3):
        foreground = scores[labels == c, c]
        background = scores[(labels != c) & (labels != IGNORE), c]
        mined = (
            group_negatives(background, 4)
            if negatives == "group"
            else background.sort(descending=True).values[: 2 * len(foreground)]
        )
        expected = expected + by_pair_matrix(foreground, mined, distance)
    assert_close(loss, expected, 1e-12)
    assert_close(gradient(loss, scores), gradient(expected, scores), 1e-12)
    assert not gradient(loss, scores)[labels == IGNORE].any()


def test_group_negatives_averages_bins_of_equal_width_and_skips_empty_bins():
    scores = torch.tensor([0.0, 0.05, 0.9, 1.0, 0.1], requires_grad=True)
    means = group_negatives(scores, 4)
    assert means.tolist() == pytest.approx([0.05, 0.95])
    assert gradient(means[0], scores).tolist() == pytest.approx([1 / 3, 1 / 3, 0, 0, 1 / 3])


def test_group_negatives_with_equal_count_splits_the_sorted_scores():
    scores = torch.tensor([0.0, 5.0, 0.2, 0.1, 4.0, 100.0])
    assert group_negatives(scores, 3, equal_count=True).tolist() == pytest.approx([0.05, 2.1, 52.5])
    assert len(group_negatives(scores[:2], 3, equal_count=True)) == 2


@pytest.mark.parametrize("equal_count", [True, False])
def test_equal_scores_form_one_group_and_no_scores_form_none(equal_count):
    equal_scores = group_negatives(torch.full((5,), 0.25), 1, equal_count=equal_count)
    assert equal_scores.tolist() == [0.25]
    assert group_negatives(torch.full((5,), 0.25), 3).tolist() == [0.25]
    assert group_negatives(torch.zeros(0), 3, equal_count=equal_count).shape == (0,)


def test_hardest_negatives_returns_the_highest_scores_or_all_if_there_are_fewer():
    scores = torch.tensor([0.3, 0.9, 0.1])
    assert hardest_negatives(scores, 2).tolist() == pytest.approx([0.9, 0.3])
    assert len(hardest_negatives(scores, 10)) == 3 and len(hardest_negatives(scores, 0)) == 0


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("iou_gradient", ["higher", "both", "none"])
@pytest.mark.parametrize("alpha", [1.0, 5.0])
def test_iou_guided_loss_agrees_with_a_loop_over_pairs(alpha, iou_gradient, reduction):
    generator = torch.Generator().manual_seed(1)
    scores, ious = (
        torch.rand(40, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2)
    )
    groups = torch.randint(0, 6, (40,), generator=generator)
    groups[0] = 77
    options = dict(alpha=alpha, iou_gradient=iou_gradient, reduction=reduction)
    loss = iou_guided_ranking_loss(scores, ious, groups, **options)
    expected = iou_guided_by_loop(scores, ious, groups, **options)
    assert_close(loss, expected, 1e-12)
    assert_close(gradient(loss, scores), gradient(expected, scores), 1e-12)
    if iou_gradient == "none":
        assert not gradient(loss, ious).any()
    else:
        assert_close(gradient(loss, ious), gradient(expected, ious), 1e-12)


def test_the_mean_of_the_iou_guided_loss_is_taken_within_each_image():
    generator = torch.Generator().manual_seed(4)
    scores = torch.rand(12, dtype=torch.float64, generator=generator).requires_grad_()
    ious = torch.rand(12, dtype=torch.float64, generator=generator)
    # Two groups in the first image, one with a pair in the second, and none in the third.
    groups = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 4, 3, 1, 0])
    image = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 1, 0, 0])
    loss = iou_guided_ranking_loss(
        scores, ious, groups, reduction="mean", image=image, num_images=3
    )
    expected = sum(
        iou_guided_by_loop(
            scores[image == i], ious[image == i], groups[image == i], 1.0, "higher", "mean"
        )
        for i in range(3)
    )
    assert_close(loss, expected, 1e-12)
    assert_close(gradient(loss, scores), gradient(expected, scores), 1e-12)


def test_iou_guided_loss_of_many_pairs_in_several_blocks_agrees_with_all_pairs():
    generator = torch.Generator().manual_seed(2)
    scores, ious = (torch.rand(900, dtype=torch.float64, generator=generator) for _ in range(2))
    scores.requires_grad_()
    df, ds = (x[:, None] - x[None, :] for x in (scores, ious))
    expected = torch.exp(-df * ds)[df > 0].mean()
    loss = iou_guided_ranking_loss(scores, ious, torch.zeros(900, dtype=torch.int64))
    assert 900 * 900 > constants.PAIRS
    assert_close(loss, expected, 1e-12)
    assert_close(gradient(loss, scores), gradient(expected, scores), 1e-12)


def test_published_example_of_the_iou_guided_loss_matches_to_the_printed_digits():
    scores = torch.tensor([0.7, 0.4], dtype=torch.float64, requires_grad=True)
    ious = torch.tensor([0.5, 0.8], dtype=torch.float64, requires_grad=True)
    loss = iou_guided_ranking_loss(scores, ious, torch.zeros(2, dtype=torch.int64))
    assert loss.item() == pytest.approx(1.0942, abs=6e-5)
    assert gradient(loss, scores).tolist() == pytest.approx([0.328, -0.328], abs=6e-4)
    assert gradient(loss, ious).tolist() == pytest.approx([-0.328, 0], abs=6e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: global_ranking_loss(torch.ones(2, 2), torch.ones(2)),
            "foreground: expected a one",
        ),
        (
            lambda: global_ranking_loss(torch.ones(2), torch.ones(2), distance="step"),
            "distance: ex",
        ),
        (lambda: class_specific_ranking_loss(torch.ones(3), torch.ones(3).long()), "scores: expec"),
        (
            lambda: class_specific_ranking_loss(torch.ones(3, 2), torch.ones(3)),
            "labels: expected an i",
        ),
        (
            lambda: class_specific_ranking_loss(torch.ones(3, 2), torch.full((3,), 2)),
            "labels: expected a class below 2",
        ),
        (
            lambda: class_specific_ranking_loss(
                torch.ones(3, 2), torch.zeros(3).long(), negatives="all"
            ),
            "negatives: expected one of group, ohem",
        ),
        (
            lambda: iou_guided_ranking_loss(
                torch.ones(2), torch.ones(2), torch.ones(2).long(), reduction="max"
            ),
            "reduction: expected one of sum, mean",
        ),
        (lambda: group_negatives(torch.ones(3), 0), "groups: expected an integer of at least"),
        (
            lambda: iou_guided_ranking_loss(torch.ones(2), torch.ones(2), torch.ones(2)),
            "groups: expected an int64",
        ),
        (
            lambda: iou_guided_ranking_loss(torch.ones(2), torch.ones(3), torch.ones(2).long()),
            "ious: expected a float tensor of shape .2,. on cpu, one entry per score",
        ),
        (
            lambda: iou_guided_ranking_loss(
                torch.ones(2), torch.ones(2), torch.ones(2).long(), alpha=math.nan
            ),
            "alpha: expected a finite number above 0",
        ),
    ],
)
def test_bad_arguments_raise_value_error_with_the_expected_and_given_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
