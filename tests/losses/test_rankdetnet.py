import math

import pytest
import torch
from torch.nn import functional

from ranking_det.boxes import box_iou
from ranking_det.criteria import BoxTargets, Candidates, Criterion, RankDet
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

DISTANCES = {"exp": torch.exp, "sigmoid": torch.sigmoid, "logistic": functional.softplus}


def by_pair_matrix(foreground, background, distance="exp", reweight=True):
    """Equations 2 and 3 with the whole matrix of pairs and autograd."""
    losses = DISTANCES[distance](background[None, :] - foreground[:, None])
    weights = losses.detach() / losses.detach().sum() if reweight else 1 / losses.numel()
    return (weights * losses).sum()


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
def test_global_loss_agrees_with_the_pair_matrix(shape, distance, reweight):
    foreground, background = samples(*shape)
    loss = global_ranking_loss(foreground, background, distance=distance, reweight=reweight)
    expected = by_pair_matrix(foreground, background, distance, reweight)
    assert_close(loss, expected, 1e-12)
    for x in (foreground, background):
        assert_close(gradient(loss, x), gradient(expected, x), 1e-12)


def test_published_example_of_the_global_loss_holds_to_the_printed_digits():
    foreground = torch.tensor([0.7, 0.4], dtype=torch.float64, requires_grad=True)
    background = torch.tensor([0.5, 0.2, 0.1], dtype=torch.float64, requires_grad=True)
    loss = global_ranking_loss(foreground, background)
    assert loss.item() == pytest.approx(0.814852, abs=6e-7)
    at_foreground, at_background = gradient(loss, foreground), gradient(loss, background)
    assert at_foreground.tolist() == pytest.approx([-0.288738, -0.526114], abs=6e-7)
    assert at_background.tolist() == pytest.approx([0.407805, 0.223808, 0.183239], abs=6e-7)


@pytest.mark.parametrize("distance", DISTANCES)
def test_global_loss_is_finite_for_logits_far_in_the_wrong_order(distance):
    foreground, background = (x.detach().float() for x in samples(offset=0.0))
    foreground, background = (foreground - 500).requires_grad_(), background.requires_grad_()
    for reweight in (True, False):
        loss = global_ranking_loss(foreground, background, distance=distance, reweight=reweight)
        assert loss.isfinite()
        assert gradient(loss, foreground).isfinite().all()
        right = global_ranking_loss(background, foreground, distance=distance, reweight=reweight)
        assert right.isfinite() and gradient(right, foreground).isfinite().all()


def test_no_pairs_give_zeros_attached_to_the_graph():
    empty = torch.zeros(0, requires_grad=True)
    some = torch.ones(3, requires_grad=True)
    for pair in ((empty, some), (some, empty), (empty, empty)):
        loss = global_ranking_loss(*pair)
        assert loss.item() == 0 and loss.requires_grad
    scores = torch.ones(3, 2, requires_grad=True)
    loss = class_specific_ranking_loss(scores, torch.tensor([BACKGROUND, IGNORE, BACKGROUND]))
    assert loss.item() == 0 and not gradient(loss, scores).any()
    groups = torch.arange(3)
    loss = iou_guided_ranking_loss(some, torch.rand(3), groups)
    assert loss.item() == 0 and not gradient(loss, some).any()
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
        own = scores[labels == c, c]
        others = scores[(labels != c) & (labels != IGNORE), c]
        mined = (
            group_negatives(others, 4)
            if negatives == "group"
            else others.sort(descending=True).values[: 2 * len(own)]
        )
        expected = expected + by_pair_matrix(own, mined, distance)
    assert_close(loss, expected, 1e-12)
    assert_close(gradient(loss, scores), gradient(expected, scores), 1e-12)
    assert not gradient(loss, scores)[labels == IGNORE].any()


def test_groups_are_bins_of_equal_width_and_empty_ones_are_left_out():
    scores = torch.tensor([0.0, 0.05, 0.9, 1.0, 0.1], requires_grad=True)
    means = group_negatives(scores, 4)
    assert means.tolist() == pytest.approx([0.05, 0.95])
    assert gradient(means[0], scores).tolist() == pytest.approx([1 / 3, 1 / 3, 0, 0, 1 / 3])


def test_groups_of_equal_count_split_the_sorted_scores():
    scores = torch.tensor([0.0, 5.0, 0.2, 0.1, 4.0, 100.0])
    assert group_negatives(scores, 3, equal_count=True).tolist() == pytest.approx([0.05, 2.1, 52.5])
    assert len(group_negatives(scores[:2], 3, equal_count=True)) == 2


@pytest.mark.parametrize("equal_count", [True, False])
def test_groups_of_one_value_and_of_none(equal_count):
    same = group_negatives(torch.full((5,), 0.25), 1, equal_count=equal_count)
    assert same.tolist() == [0.25]
    assert group_negatives(torch.full((5,), 0.25), 3).tolist() == [0.25]
    assert group_negatives(torch.zeros(0), 3, equal_count=equal_count).shape == (0,)


def test_hardest_negatives_are_the_highest_and_no_more_than_there_are():
    scores = torch.tensor([0.3, 0.9, 0.1])
    assert hardest_negatives(scores, 2).tolist() == pytest.approx([0.9, 0.3])
    assert len(hardest_negatives(scores, 10)) == 3 and len(hardest_negatives(scores, 0)) == 0


def iou_guided_by_loop(scores, ious, groups, alpha, iou_gradient, reduction="sum"):
    """Equation 6, one pair at a time."""
    means = []
    for g in groups.unique():
        members = torch.nonzero(groups == g).squeeze(1).tolist()
        losses = []
        for k, i in enumerate(members):
            for j in members[k + 1 :]:
                a, b = (i, j) if scores[i] >= scores[j] else (j, i)
                s_a = ious[a].detach() if iou_gradient == "none" else ious[a]
                s_b = ious[b] if iou_gradient == "both" else ious[b].detach()
                losses.append(torch.exp(-alpha * (scores[a] - scores[b]) * (s_a - s_b)))
        if losses:
            means.append(torch.stack(losses).mean())
    if not means:
        return 0 * scores.sum()
    return torch.stack(means).sum() if reduction == "sum" else torch.stack(means).mean()


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


def test_many_pairs_are_visited_in_blocks():
    generator = torch.Generator().manual_seed(2)
    scores, ious = (torch.rand(900, dtype=torch.float64, generator=generator) for _ in range(2))
    scores.requires_grad_()
    df, ds = (x[:, None] - x[None, :] for x in (scores, ious))
    expected = torch.exp(-df * ds)[df > 0].mean()
    loss = iou_guided_ranking_loss(scores, ious, torch.zeros(900, dtype=torch.int64))
    assert 900 * 900 > constants.PAIRS
    assert_close(loss, expected, 1e-12)
    assert_close(gradient(loss, scores), gradient(expected, scores), 1e-12)


def test_published_example_of_the_iou_guided_loss_holds_to_the_printed_digits():
    scores = torch.tensor([0.7, 0.4], dtype=torch.float64, requires_grad=True)
    ious = torch.tensor([0.5, 0.8], dtype=torch.float64, requires_grad=True)
    loss = iou_guided_ranking_loss(scores, ious, torch.zeros(2, dtype=torch.int64))
    assert loss.item() == pytest.approx(1.0942, abs=6e-5)
    assert gradient(loss, scores).tolist() == pytest.approx([0.328, -0.328], abs=6e-4)
    assert gradient(loss, ious).tolist() == pytest.approx([-0.328, 0], abs=6e-4)


def mined_by_loop(scores, negatives, groups, count):
    """The negatives, by equal-width groups or the ``count`` highest."""
    if negatives == "ohem" or not len(scores):
        return scores.sort(descending=True).values[:count]
    low, high = scores.min().item(), scores.max().item()
    members = [[] for _ in range(groups)]
    for score in scores:
        place = (score.item() - low) / (high - low) * groups if high > low else 0
        members[min(int(place), groups - 1)].append(score)
    return torch.stack([torch.stack(group).mean() for group in members if group])


def rankdet_by_loop(candidates, labels, rows, *, negatives, probabilities, merge_levels):
    """The three losses of the given rows as one ranking, and whether they have a positive."""
    positives = torch.nonzero(labels >= 0).squeeze(1)
    own = {r: i for i, r in enumerate(positives.tolist()) if r in rows}
    if not own:
        return None
    logits = candidates.logits
    scores = logits.sigmoid() if probabilities else logits
    foreground = torch.stack([scores[r, labels[r]] for r in own])
    background = [scores[r].max() for r in rows if labels[r] == BACKGROUND]
    background = torch.stack(background) if background else scores[:0, 0]
    mined = mined_by_loop(background, negatives, 15, 3 * len(own))
    losses = [by_pair_matrix(foreground, mined) if len(mined) else 0 * scores.sum(), 0.0]
    for c in range(scores.shape[1]):
        high = [scores[r, c] for r in own if labels[r] == c]
        low = [scores[r, c] for r in rows if labels[r] not in (c, IGNORE)]
        if high and low:
            mined = mined_by_loop(torch.stack(low), negatives, 3, 3 * len(high))
            losses[1] = losses[1] + by_pair_matrix(torch.stack(high), mined)
    ious = box_iou(candidates.boxes.boxes, candidates.boxes.gt_boxes)[list(own.values())]
    level = 0 if merge_levels else candidates.level[list(own)]
    groups = labels[list(own)] * 10 + level
    return losses + [iou_guided_by_loop(foreground, ious, groups, 1.0, "higher")]


def detections(seed=0, sizes=(12, 30, 9, 0, 25), classes=4, levels=3):
    """Candidates of images of several sizes: one without a positive, one without a row."""
    generator = torch.Generator().manual_seed(seed)
    rows = sum(sizes)
    image = torch.cat([torch.full((size,), i) for i, size in enumerate(sizes)])
    labels = torch.randint(-2, classes, (rows,), generator=generator)
    labels[torch.rand(rows, generator=generator) < 0.4] = BACKGROUND
    labels[image == 2] = BACKGROUND
    labels[image == 0] = labels[image == 0].clamp(min=0)
    positives = int((labels >= 0).sum())
    corner = 50 * torch.rand(positives, 2, generator=generator, dtype=torch.float64)
    anchors = torch.cat([corner, corner + 20], dim=1)
    outputs = torch.randn(positives, 4, generator=generator, dtype=torch.float64).requires_grad_()
    shift = 3 * torch.rand(positives, 4, generator=generator, dtype=torch.float64)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    return Candidates(
        logits=logits.requires_grad_(),
        labels=labels,
        positives=(labels >= 0).nonzero().squeeze(1),
        image=image,
        level=torch.randint(0, levels, (rows,), generator=generator),
        num_images=len(sizes),
        boxes=BoxTargets(
            outputs=outputs,
            boxes=anchors + outputs,
            anchors=anchors,
            gt_boxes=anchors + shift,
        ),
    )


@pytest.mark.parametrize("elements", [40, 1 << 20])
@pytest.mark.parametrize("merge_levels", [True, False])
@pytest.mark.parametrize("probabilities", [True, False])
@pytest.mark.parametrize("negatives", ["group", "ohem"])
@pytest.mark.parametrize("scope", ["image", "gpu"])
def test_rankdet_agrees_with_loops_over_images_classes_and_levels(
    scope, negatives, probabilities, merge_levels, elements, monkeypatch
):
    monkeypatch.setattr(constants, "ELEMENTS", elements)
    candidates = detections()
    labels = candidates.labels
    options = dict(negatives=negatives, probabilities=probabilities, merge_levels=merge_levels)
    criterion = Criterion(classification=RankDet(**options), rank_scope=scope)
    output = criterion(candidates)
    found = [output.losses[name] for name in ("loss_global", "loss_class", "loss_iou")]
    image = candidates.image if scope == "image" else torch.zeros_like(labels)
    parts = [
        rankdet_by_loop(
            candidates,
            labels,
            torch.nonzero(image == i).squeeze(1).tolist(),
            **options,
        )
        for i in range(candidates.num_images)
    ]
    parts = [part for part in parts if part is not None]
    assert len(parts) == (3 if scope == "image" else 1)
    for losses in zip(*parts, strict=True):
        loss, expected = found.pop(0), sum(losses) / len(parts)
        assert_close(loss, expected, 1e-12)
        for leaf in (candidates.logits, candidates.boxes.outputs):
            gradients = [
                torch.autograd.grad(x, leaf, retain_graph=True, materialize_grads=True)[0]
                if x.requires_grad
                else torch.zeros_like(leaf)
                for x in (loss, expected)
            ]
            assert_close(*gradients, 1e-11)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: global_ranking_loss(torch.ones(2, 2), torch.ones(2)), "foreground: expected a fl"),
        (
            lambda: global_ranking_loss(torch.ones(2), torch.ones(2), distance="step"),
            "distance: ex",
        ),
        (lambda: class_specific_ranking_loss(torch.ones(3), torch.ones(3).long()), "scores: expec"),
        (
            lambda: class_specific_ranking_loss(torch.ones(3, 2), torch.ones(3)),
            "labels: expected i",
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
            "groups: expected int64",
        ),
        (
            lambda: iou_guided_ranking_loss(torch.ones(2), torch.ones(3), torch.ones(2).long()),
            "groups: expected one entry",
        ),
        (
            lambda: iou_guided_ranking_loss(
                torch.ones(2), torch.ones(2), torch.ones(2).long(), alpha=math.nan
            ),
            "alpha: expected a finite number above 0",
        ),
    ],
)
def test_bad_arguments_are_named_with_what_was_expected_and_what_came(call, message):
    with pytest.raises(ValueError, match=message):
        call()
