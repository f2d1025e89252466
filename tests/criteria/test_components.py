import pytest
import torch

from ranking_det.criteria import (
    CandidateCount,
    CenternessWeight,
    Classification,
    Criterion,
    Focal,
    HistoryBalance,
    IoUWeight,
    MagnitudeBalance,
    PositiveCount,
    RankingWeight,
    ScoreWeight,
    SmoothL1,
    UniformWeight,
    ValueBalance,
)
from ranking_det.labels import BACKGROUND, IGNORE
from tests.criteria.cases import LABELS, gradients, make_candidates, rank_sort, replace_fields


def candidates_with(positives):
    """Make candidates with this number of positives, two negatives and one ignored row."""
    return make_candidates(torch.tensor([0] * positives + [BACKGROUND, BACKGROUND, IGNORE]))


@pytest.mark.parametrize("weight", [UniformWeight, ScoreWeight, IoUWeight, CenternessWeight])
def test_instance_weights_are_detached_and_in_range(weight):
    candidates = make_candidates(LABELS)
    weights = weight()(candidates)
    assert weights.shape == (4,) and not weights.requires_grad
    assert (weights >= 0).all() and (weights <= 1).all()
    if weight is IoUWeight:
        torch.testing.assert_close(weights, candidates.boxes.overlap())


def test_the_score_weight_is_the_highest_score_or_the_score_of_the_objects_class():
    candidates = make_candidates(LABELS)
    scores = candidates.logits.detach().sigmoid()[LABELS >= 0]
    torch.testing.assert_close(ScoreWeight()(candidates), scores.amax(dim=1))
    class_scores = scores[torch.arange(4), LABELS[LABELS >= 0]]
    torch.testing.assert_close(ScoreWeight(target_class=True)(candidates), class_scores)
    assert (class_scores < scores.amax(dim=1)).any()


def balance_factor(balance, task_loss, loss):
    candidates = make_candidates(LABELS)
    losses = torch.tensor(task_loss), torch.tensor(loss)
    return balance(*losses, candidates, candidates.boxes.outputs)


def test_value_balance_is_one_without_a_box_loss():
    assert balance_factor(ValueBalance(), 2.0, 0.0) == 1
    assert balance_factor(ValueBalance(), 2.0, 4.0) == 0.5


def test_the_positive_count_is_a_moving_average_saved_in_checkpoints():
    normalizer = PositiveCount(momentum=0.9)
    assert normalizer(candidates_with(50)) == pytest.approx(95)
    assert normalizer(candidates_with(0)) == pytest.approx(95 * 0.9 + 0.1)
    loaded = PositiveCount()
    loaded.load_state_dict(normalizer.state_dict())
    assert loaded(candidates_with(7)) == normalizer(candidates_with(7))


def test_the_positive_count_without_momentum_is_that_of_the_current_step():
    normalizer = PositiveCount(momentum=0.0)
    assert normalizer(candidates_with(5)) == 5 and normalizer(candidates_with(0)) == 1
    assert normalizer.eval()(candidates_with(7)) == 7
    plus_one = PositiveCount(momentum=0.0, extra=1)
    assert plus_one(candidates_with(5)) == 6 and plus_one(candidates_with(0)) == 1
    with pytest.raises(ValueError, match="scope: expected one of gpu, global, got 'image'"):
        PositiveCount(scope="image")


def test_the_candidate_count_excludes_ignored_rows_and_is_at_least_one():
    assert CandidateCount()(candidates_with(5)) == 7
    only_ignored = torch.tensor([IGNORE])
    assert CandidateCount()(make_candidates(only_ignored)) == 1


def test_smooth_l1_encodes_the_object_relative_to_the_anchor():
    candidates = make_candidates(torch.tensor([0]))
    anchor = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    shifted = replace_fields(
        candidates,
        anchors=anchor,
        gt_boxes=torch.tensor([[1.0, 2.0, 21.0, 22.0]]),
        outputs=torch.zeros(1, 4),
    )
    error = SmoothL1(beta=0.0, weights=(10.0, 10.0, 5.0, 5.0))(shifted)
    expected = 10 * 0.6 + 10 * 0.1 + 5 * torch.log(torch.tensor(2.0)) + 0
    torch.testing.assert_close(error, expected.reshape(1))


def test_magnitude_balance_is_the_ratio_of_the_gradient_norms():
    candidates = make_candidates(LABELS)
    criterion = rank_sort(balance=MagnitudeBalance())
    output, grad, box_grad = gradients(criterion, candidates)
    # The gradients of the balanced box loss and the ranking loss have the same norm.
    torch.testing.assert_close(box_grad.abs().sum(), grad.abs().sum(), rtol=1e-5, atol=0)
    with torch.no_grad():
        assert criterion(make_candidates(LABELS)).metrics["box_balance"] == 1


@pytest.mark.parametrize("period", [1, 2, 5])
def test_the_last_step_of_a_period_belongs_to_it_and_already_uses_the_new_factor(period):
    generator = torch.Generator().manual_seed(period)
    steps = torch.rand(17, 2, generator=generator).tolist()
    balance = HistoryBalance(period, initial=7.0)
    factor, tasks, boxes = 7.0, [], []
    for number, (task, box) in enumerate(steps, start=1):
        tasks.append(task)
        boxes.append(box)
        if number % period == 0:
            factor = (sum(tasks) + sum(boxes)) / sum(boxes)
            tasks, boxes = [], []
        assert balance_factor(balance, task, box) == pytest.approx(factor)


def test_history_balance_updates_once_per_period_and_is_saved_in_checkpoints():
    balance = HistoryBalance(period=2, initial=50.0)

    def step(task, box):
        return balance_factor(balance, task, box).item()

    assert [step(0.6, 0.1), step(0.4, 0.3)] == [50.0, pytest.approx((1.0 + 0.4) / 0.4)]
    assert step(9.0, 1.0) == pytest.approx(3.5)
    resumed = HistoryBalance(period=2)
    resumed.load_state_dict(balance.state_dict())
    balance, original = resumed, balance
    assert step(1.0, 1.0) == pytest.approx((2.0 + 10.0) / 2.0)
    assert step(0.0, 0.0) == pytest.approx(6.0)
    assert original.sums.tolist() == [9.0, 1.0]  # the two do not share state
    balance = HistoryBalance(period=1)
    assert step(1.0, 0.0) == 50.0  # without a box loss the factor does not change


def test_a_diverged_step_does_not_affect_the_history_balance():
    balance = HistoryBalance(period=2)
    factors = [balance_factor(balance, 0.5, box).item() for box in (0.1, torch.inf, 0.2, 0.3, 0.1)]
    assert factors == pytest.approx([50, 50, 50, 3.0, 3.0])


def test_evaluation_mode_updates_neither_balance_nor_normalizer():
    balance, normalizer = HistoryBalance(period=1).eval(), PositiveCount().eval()
    normalizer.average.fill_(10)
    for _ in range(3):
        assert balance_factor(balance, 1.0, 1.0) == 50
        assert normalizer(candidates_with(3)) == 10


def test_magnitude_balance_handles_gradients_that_underflow_in_float16():
    logits = torch.zeros(1, 4, dtype=torch.float16, requires_grad=True)
    outputs = torch.zeros(1, 4, requires_grad=True)
    candidates = replace_fields(make_candidates(torch.tensor([0])), logits=logits, outputs=outputs)
    task, box = (logits.float() * 2e-8).sum(), outputs.sum()
    ratio = MagnitudeBalance()(task, box, candidates, outputs)
    torch.testing.assert_close(ratio, torch.tensor(2e-8), rtol=1e-2, atol=0)


def test_ranking_weights_agree_with_a_loop_over_the_definition():
    candidates = make_candidates(LABELS)
    rows = (LABELS >= 0).nonzero().squeeze(1)
    for delta in (0.0, 1.5):
        weight = RankingWeight(delta)
        weights = weight(candidates)
        entries = candidates.logits.detach()[LABELS != IGNORE].double()
        scores = candidates.logits.detach()[rows, LABELS[rows]].double()
        negatives = sorted(set(entries.flatten().tolist()) - set(scores.tolist()))

        def h(x, d):
            return float(x >= 0) if d == 0 else min(max(x / (2 * d) + 0.5, 0.0), 1.0)

        expected = []
        for i in scores.tolist():
            total = 0.0
            for k, other in enumerate(scores.tolist()):
                rank = 1.0
                rank += sum(h(n - other, 0.5) for n in negatives)
                rank += sum(h(p - other, 0.5) for j, p in enumerate(scores.tolist()) if j != k)
                total += h(i - other, delta) / rank
            expected.append(total / 4)
        torch.testing.assert_close(weights, torch.tensor(expected))


def test_centerness_is_one_at_the_center_and_zero_outside():
    candidates = make_candidates(torch.tensor([0, 0, 0]))
    with_anchors = replace_fields(
        candidates,
        anchors=torch.tensor([[4.0, 4, 6, 6], [0, 4, 5, 6], [-9, 0, -3, 2]]),
        gt_boxes=torch.tensor([[0.0, 0, 10, 10]] * 3),
    )
    weights = CenternessWeight()(with_anchors)
    torch.testing.assert_close(weights, torch.tensor([1.0, (2.5 / 7.5) ** 0.5, 0.0]))


def test_a_custom_loss_needs_only_forward():
    class Hinge(Classification):
        def __init__(self, margin):
            super().__init__()
            self.margin = margin

        def forward(self, candidates):
            entries, positives = candidates.entries()
            return {"loss_cls": (self.margin - entries[positives]).clamp(min=0).sum()}

    losses = Criterion(classification=Hinge(9.0))(make_candidates(LABELS)).losses
    assert list(losses) == ["loss_cls", "loss_box"] and losses["loss_cls"] > 0


def test_an_option_can_be_changed_after_construction():
    loss, without_modulation = Focal(), Focal(gamma=0.0)
    loss.gamma = 0.0
    assert torch.equal(
        loss(make_candidates(LABELS))["loss_cls"],
        without_modulation(make_candidates(LABELS))["loss_cls"],
    )
    assert not torch.equal(
        Focal()(make_candidates(LABELS))["loss_cls"],
        without_modulation(make_candidates(LABELS))["loss_cls"],
    )
