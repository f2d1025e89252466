import dataclasses

import pytest
import torch

from ranking_det import losses
from ranking_det.labels import BACKGROUND, IGNORE
from ranking_det.losses import (
    Candidates,
    ConstantBalance,
    Criterion,
    Focal,
    GIoU,
    IoUWeight,
    PositiveCount,
    RankSort,
    ScoreWeight,
    SmoothL1,
    UniformWeight,
    ValueBalance,
    rank_sort_loss,
)

CRITERIA = {
    "rank_sort": lambda: Criterion(classification=RankSort()),
    "focal": lambda: Criterion(
        classification=Focal(),
        localization=SmoothL1(beta=0.1),
        instance_weight=UniformWeight(),
        balance=ConstantBalance(1.0),
        normalizer=PositiveCount(),
    ),
}


def make(labels, num_classes=4, seed=0, dtype=torch.float32, num_images=2):
    """Candidates whose logits and box outputs are leaves; a box is its anchor plus its outputs."""
    generator = torch.Generator().manual_seed(seed)
    rows = len(labels)
    positives = int((labels >= 0).sum())
    logits = torch.randn(rows, num_classes, generator=generator).to(dtype).requires_grad_()
    outputs = torch.randn(positives, 4, generator=generator).to(dtype).requires_grad_()
    corner = torch.rand(positives, 2, generator=generator) * 50
    anchors = torch.cat([corner, corner + 20], dim=1)
    return Candidates(
        logits=logits,
        image=torch.arange(rows) * num_images // max(rows, 1),
        level=torch.zeros(rows, dtype=torch.int64),
        num_images=num_images,
        box_outputs=outputs,
        boxes=anchors + outputs.float(),
        anchors=anchors,
        gt_boxes=anchors + 3 * torch.rand(positives, 4, generator=generator),
    )


LABELS = torch.tensor([0, BACKGROUND, 3, IGNORE, BACKGROUND, 1, IGNORE, 2])


def gradients(criterion, candidates, labels):
    output = criterion(candidates, labels)
    sum(output.losses.values()).backward()
    return output, candidates.logits.grad, candidates.box_outputs.grad


def test_rank_sort_sees_the_entries_in_row_major_order_without_the_ignored_rows():
    candidates = make(LABELS)
    output, grad, _ = gradients(Criterion(classification=RankSort()), candidates, LABELS)
    kept = LABELS != IGNORE
    logits = candidates.logits.detach()[kept].reshape(-1).requires_grad_()
    labels = LABELS[kept]
    rows = (labels >= 0).nonzero().squeeze(1)
    iou = losses.criterion.box_iou(candidates.boxes, candidates.gt_boxes).detach()
    expected = rank_sort_loss(logits, rows * 4 + labels[rows], iou)
    (expected.ranking + expected.sorting).backward()
    torch.testing.assert_close(output.losses["loss_rank"], expected.ranking)
    torch.testing.assert_close(output.losses["loss_sort"], expected.sorting)
    torch.testing.assert_close(grad[kept].reshape(-1), logits.grad)
    assert (grad[~kept] == 0).all()


def test_the_box_loss_is_the_score_weighted_mean_giou_balanced_to_the_task_loss():
    candidates = make(LABELS)
    output, _, grad = gradients(Criterion(classification=RankSort()), candidates, LABELS)
    weights = candidates.logits.detach()[LABELS >= 0].sigmoid().amax(dim=1)
    torch.testing.assert_close(output.weights, weights)
    torch.testing.assert_close(output.losses["loss_box"].detach(), output.task_loss)
    fresh = make(LABELS)
    mean = (weights * GIoU()(fresh)).sum() / weights.sum()
    (output.task_loss / mean.detach() * mean).backward()
    torch.testing.assert_close(grad, fresh.box_outputs.grad)


def test_the_task_loss_is_the_sum_of_the_ranking_parts_and_detached():
    output = Criterion(classification=RankSort())(make(LABELS), LABELS)
    parts = output.losses["loss_rank"] + output.losses["loss_sort"]
    torch.testing.assert_close(output.task_loss, parts.detach())
    assert not output.task_loss.requires_grad and not output.weights.requires_grad


def test_metrics_count_per_image_and_in_entries():
    metrics = Criterion(classification=RankSort())(make(LABELS), LABELS).metrics
    assert metrics["num_positives"] == 2  # 4 in 2 images
    assert metrics["negatives_per_positive"] == (6 * 4 - 4) / 4
    assert 0 < metrics["mean_iou"] < 1
    assert all(not value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(LABELS, id="usual"),
        pytest.param(torch.full((6,), BACKGROUND), id="no positives"),
        pytest.param(torch.full((6,), IGNORE), id="all ignored"),
        pytest.param(torch.tensor([1, 2, 0]), id="no background"),
        pytest.param(torch.tensor([2]), id="one positive"),
        pytest.param(torch.zeros(0, dtype=torch.int64), id="no rows"),
    ],
)
def test_degenerate_steps_give_finite_losses_and_gradients(name, dtype, labels):
    candidates = make(labels, dtype=dtype)
    output, grad, box_grad = gradients(CRITERIA[name](), candidates, labels)
    assert all(loss.isfinite() and loss.dim() == 0 for loss in output.losses.values())
    assert grad is not None and grad.isfinite().all() and grad.dtype == dtype
    assert box_grad is not None and box_grad.isfinite().all()
    assert all(value.isfinite() for value in output.metrics.values())


def test_one_class_and_perfect_boxes_leave_the_balance_finite():
    candidates = make(torch.tensor([0, BACKGROUND]), num_classes=1)
    perfect = dataclasses.replace(candidates, gt_boxes=candidates.boxes.detach())
    output = Criterion(classification=RankSort())(perfect, torch.tensor([0, BACKGROUND]))
    assert output.metrics["box_balance"].isfinite()
    assert output.losses["loss_box"] < 1e-5


def test_a_diverged_box_makes_the_box_loss_nan_and_not_an_error():
    candidates = make(LABELS)
    broken = dataclasses.replace(candidates, boxes=candidates.boxes * torch.nan)
    output = Criterion(classification=RankSort())(broken, LABELS)
    assert output.losses["loss_box"].isnan()
    assert output.losses["loss_rank"].isfinite()


@pytest.mark.parametrize("weight", [UniformWeight, ScoreWeight, IoUWeight])
def test_instance_weights_are_detached_and_of_the_right_range(weight):
    candidates = make(LABELS)
    rows = (LABELS >= 0).nonzero().squeeze(1)
    quality = torch.tensor([0.1, 0.0, 0.9, 0.5])
    weights = weight()(candidates, rows, quality)
    assert weights.shape == (4,) and not weights.requires_grad
    assert (weights >= 0).all() and (weights <= 1).all()
    if weight is IoUWeight:
        torch.testing.assert_close(weights, quality)


def test_weights_of_zero_do_not_divide_by_zero():
    candidates = make(LABELS)
    far = dataclasses.replace(candidates, gt_boxes=candidates.gt_boxes + 1000)
    criterion = Criterion(classification=RankSort(), instance_weight=IoUWeight())
    output, _, grad = gradients(criterion, far, LABELS)
    assert output.losses["loss_box"] == 0 and (grad == 0).all()


def test_value_balance_is_one_without_a_box_loss():
    assert ValueBalance()(torch.tensor(2.0), torch.tensor(0.0)) == 1
    assert ValueBalance()(torch.tensor(2.0), torch.tensor(4.0)) == 0.5


def test_the_positive_count_is_an_average_that_a_checkpoint_keeps():
    normalizer = PositiveCount(momentum=0.9, initial=100.0)
    assert normalizer(50) == pytest.approx(95)
    assert normalizer(0) == pytest.approx(95 * 0.9 + 0.1)
    fresh = PositiveCount()
    fresh.load_state_dict(normalizer.state_dict())
    assert fresh(7) == normalizer(7)


def test_smooth_l1_encodes_the_object_relative_to_the_anchor():
    candidates = make(torch.tensor([0]))
    anchor = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    shifted = dataclasses.replace(
        candidates,
        anchors=anchor,
        gt_boxes=torch.tensor([[1.0, 2.0, 21.0, 22.0]]),
        box_outputs=torch.zeros(1, 4),
    )
    error = SmoothL1(beta=0.0, weights=(10.0, 10.0, 5.0, 5.0))(shifted)
    expected = 10 * 0.6 + 10 * 0.1 + 5 * torch.log(torch.tensor(2.0)) + 0
    torch.testing.assert_close(error, expected.reshape(1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RankSort(delta=-1), "delta must be >= 0, got -1"),
        (lambda: SmoothL1(beta=-0.1), "beta must be >= 0, got -0.1"),
        (lambda: SmoothL1(weights=(1.0, 2.0)), r"four numbers, got \(1.0, 2.0\)"),
        (lambda: ConstantBalance(-2), "weight must be >= 0, got -2"),
        (lambda: PositiveCount(momentum=1.0), r"momentum must be in \[0, 1\), got 1.0"),
        (lambda: PositiveCount(initial=0), "initial must be > 0, got 0"),
        (lambda: Criterion(classification=RankSort())(make(LABELS), LABELS[:3]), r"shape \(8,\)"),
        (
            lambda: Criterion(classification=RankSort())(
                make(LABELS), LABELS.clamp(max=BACKGROUND)
            ),
            "4 boxes and 0 positives",
        ),
        (
            lambda: Criterion(classification=RankSort())(make(LABELS, num_classes=3), LABELS),
            "below the 3 classes of the logits, got 3",
        ),
    ],
)
def test_wrong_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
