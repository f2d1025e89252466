import dataclasses

import pytest
import torch

from ranking_det.criteria import (
    BranchLoss,
    CenternessWeight,
    Criterion,
    CriterionSchedule,
    Focal,
    IoUWeight,
    PositiveCount,
    QualityFocal,
    RankDet,
    RankSort,
)
from ranking_det.labels import BACKGROUND
from tests.criteria.cases import LABELS, make_candidates


def focal(**options):
    return Criterion(classification=Focal(), normalizer=PositiveCount(), **options)


def names_of_losses(output):
    return sorted(output.losses)


def test_stages_follow_each_other_and_the_last_stage_continues():
    schedule = CriterionSchedule([focal(), Criterion(classification=RankSort())], [0.4, 0.6], 5)
    loss_names = [names_of_losses(schedule(make_candidates(LABELS))) for _ in range(5)]
    assert (
        loss_names == [["loss_box", "loss_cls"]] * 2 + [["loss_box", "loss_rank", "loss_sort"]] * 3
    )
    assert schedule(make_candidates(LABELS)).metrics["stage"] == 1


def test_a_resumed_run_continues_in_its_stage():
    def build():
        return CriterionSchedule([focal(), Criterion(classification=RankSort())], [0.75, 0.25], 4)

    first, resumed = build(), build()
    for _ in range(2):
        first(make_candidates(LABELS))
    resumed(make_candidates(LABELS))
    resumed.load_state_dict(first.state_dict())
    assert [names_of_losses(resumed(make_candidates(LABELS)))[-1] for _ in range(2)] == [
        "loss_cls",
        "loss_sort",
    ]


def test_only_training_steps_advance_the_schedule():
    schedule = CriterionSchedule(
        [focal(), Criterion(classification=RankSort())], [0.5, 0.5], 2
    ).eval()
    for _ in range(3):
        assert "loss_cls" in schedule(make_candidates(LABELS)).losses
    schedule.train()(make_candidates(LABELS))
    assert "loss_rank" in schedule(make_candidates(LABELS)).losses


@pytest.mark.parametrize("target", [IoUWeight, CenternessWeight])
@pytest.mark.parametrize("labels", [LABELS, torch.full((6,), BACKGROUND)])
def test_the_branch_learns_its_target_at_the_positives(target, labels):
    candidates = make_candidates(labels)
    logits = torch.randn(len(labels), generator=torch.Generator().manual_seed(1)).requires_grad_()
    candidates = dataclasses.replace(candidates, branch_logits=logits)
    criterion = focal(branch=BranchLoss(target(), weight=0.5))
    loss = criterion(candidates).losses["loss_branch"]
    loss.backward()
    rows = labels >= 0
    assert (logits.grad[~rows] == 0).all()
    if not rows.any():
        assert loss == 0
        return
    expected = target()(candidates)
    trained = logits.detach()[rows].sigmoid() - 2 * rows.sum() * logits.grad[rows]
    torch.testing.assert_close(trained, expected)
    error = torch.nn.functional.binary_cross_entropy(logits.detach()[rows].sigmoid(), expected)
    torch.testing.assert_close(loss.detach(), error / 2)


@pytest.mark.parametrize("classification", [RankDet(), QualityFocal()])
def test_losses_that_do_not_train_the_order_of_the_scores_accept_a_branch(classification):
    normalizer = PositiveCount() if classification.is_sum else None
    branch = BranchLoss(CenternessWeight())
    Criterion(classification=classification, normalizer=normalizer, branch=branch)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Criterion(classification=RankSort(), branch=BranchLoss(IoUWeight())),
            "branch: expected None because RankSort trains the order of the scores itself, got Bra",
        ),
        (lambda: BranchLoss(IoUWeight(), weight=-1), "weight: expected a finite number"),
        (
            lambda: CriterionSchedule([focal()], [0.5, 0.5], 9),
            "shares: expected one share for each of the 1 stages",
        ),
        (lambda: CriterionSchedule([], [], 9), "shares: expected one share for each of the 0 s"),
        (
            lambda: CriterionSchedule([focal(), focal()], [0, 1], 9),
            "shares: expected a finite number",
        ),
        (lambda: CriterionSchedule([focal(), focal()], [0.5, 0.6], 9), "a sum of 1, got 1.1"),
        (lambda: CriterionSchedule([focal()], [1.0], 0), "max_iter: expected"),
        (
            lambda: CriterionSchedule(
                [focal(), focal(branch=BranchLoss(IoUWeight()))], [0.5, 0.5], 2
            ),
            "stages: expected a branch in all",
        ),
        (
            lambda: focal(branch=BranchLoss(IoUWeight()))(make_candidates(LABELS)),
            "branch_logits: expected a tensor",
        ),
        (
            lambda: focal()(
                dataclasses.replace(make_candidates(LABELS), branch_logits=torch.zeros(8))
            ),
            "branch_logits: expected None",
        ),
    ],
)
def test_the_error_names_incompatible_parts(build, message):
    with pytest.raises(ValueError, match=message):
        build()
