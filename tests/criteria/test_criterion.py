import dataclasses

import pytest
import torch

from ranking_det.criteria import (
    APE,
    ALRPCriterion,
    AveragePrecision,
    CenternessWeight,
    ConstantBalance,
    Criterion,
    Focal,
    GIoU,
    HistoryBalance,
    IoUWeight,
    MaskDice,
    PositiveCount,
    RankDet,
    RankSort,
    SmoothL1,
    ValueBalance,
)
from ranking_det.labels import BACKGROUND, IGNORE
from ranking_det.losses import alrp_loss, rank_sort_loss
from tests.criteria.cases import (
    CRITERIA,
    LABELS,
    gradients,
    make_candidates,
    make_masks,
    rank_sort,
    replace_fields,
)


def test_rank_sort_ranks_the_entries_in_row_major_order_without_ignored_rows():
    candidates = make_candidates(LABELS)
    output, grad, _ = gradients(Criterion(classification=RankSort()), candidates)
    is_counted = LABELS != IGNORE
    logits = candidates.logits.detach()[is_counted].reshape(-1).requires_grad_()
    labels = LABELS[is_counted]
    rows = (labels >= 0).nonzero().squeeze(1)
    iou = candidates.boxes.overlap()
    expected = rank_sort_loss(logits, rows * 4 + labels[rows], iou)
    (expected.ranking + expected.sorting).backward()
    torch.testing.assert_close(output.losses["loss_rank"], expected.ranking)
    torch.testing.assert_close(output.losses["loss_sort"], expected.sorting)
    torch.testing.assert_close(grad[is_counted].reshape(-1), logits.grad)
    assert (grad[~is_counted] == 0).all()


def test_the_box_loss_is_the_score_weighted_mean_giou_loss_balanced_to_the_task_loss():
    candidates = make_candidates(LABELS)
    output, _, grad = gradients(Criterion(classification=RankSort()), candidates)
    weights = candidates.logits.detach()[LABELS >= 0].sigmoid().amax(dim=1)
    torch.testing.assert_close(output.weights, weights)
    torch.testing.assert_close(output.losses["loss_box"].detach(), output.task_loss)
    same_candidates = make_candidates(LABELS)
    mean = (weights * GIoU()(same_candidates)).sum() / weights.sum()
    (output.task_loss / mean.detach() * mean).backward()
    torch.testing.assert_close(grad, same_candidates.boxes.outputs.grad)


def test_the_task_loss_is_the_detached_sum_of_the_ranking_and_sorting_losses():
    output = Criterion(classification=RankSort())(make_candidates(LABELS))
    parts = output.losses["loss_rank"] + output.losses["loss_sort"]
    torch.testing.assert_close(output.task_loss, parts.detach())
    assert not output.task_loss.requires_grad and not output.weights.requires_grad


def test_a_printed_criterion_shows_the_options_of_the_loss():
    assert "(classification): RankSort(delta=0.5, zero_is_negative=False)" in str(rank_sort())


def test_metrics_count_positives_per_image_and_negative_entries_per_positive():
    metrics = Criterion(classification=RankSort())(make_candidates(LABELS)).metrics
    assert metrics["num_positives"] == 2  # 4 in 2 images
    assert metrics["negatives_per_positive"] == (6 * 4 - 4) / 4
    assert 0 < metrics["mean_iou"] < 1
    assert all(not value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(LABELS, id="mixed"),
        pytest.param(torch.full((6,), BACKGROUND), id="no positives"),
        pytest.param(torch.full((6,), IGNORE), id="all ignored"),
        pytest.param(torch.tensor([1, 2, 0]), id="no background"),
        pytest.param(torch.tensor([2]), id="one positive"),
        pytest.param(torch.zeros(0, dtype=torch.int64), id="no rows"),
    ],
)
def test_degenerate_steps_give_finite_losses_and_gradients(name, dtype, labels):
    candidates = make_candidates(labels, dtype=dtype)
    output, grad, box_grad = gradients(CRITERIA[name](), candidates)
    assert all(loss.isfinite() and loss.dim() == 0 for loss in output.losses.values())
    assert grad is not None and grad.isfinite().all() and grad.dtype == dtype
    assert box_grad is not None and box_grad.isfinite().all()
    assert all(value.isfinite() for value in output.metrics.values())


def test_the_balance_is_finite_for_one_class_and_perfect_boxes():
    candidates = make_candidates(torch.tensor([0, BACKGROUND]), num_classes=1)
    perfect = replace_fields(candidates, gt_boxes=candidates.boxes.boxes.detach())
    output = Criterion(classification=RankSort())(perfect)
    assert output.metrics["box_balance"].isfinite()
    assert output.losses["loss_box"] < 1e-5


@pytest.mark.parametrize("name", ["rank_sort", "alrp", "ape", "rankdet", "focal"])
def test_a_diverged_box_makes_the_box_loss_infinite_or_nan_without_an_error(name):
    candidates = make_candidates(LABELS)
    boxes = candidates.boxes
    diverged = replace_fields(
        candidates, decoded=boxes.boxes * torch.nan, outputs=boxes.outputs * torch.nan
    )
    output = CRITERIA[name]()(diverged)
    assert not output.losses["loss_box"].isfinite()


def test_instance_weights_of_zero_give_a_box_loss_of_zero():
    candidates = make_candidates(LABELS)
    without_overlap = replace_fields(candidates, gt_boxes=candidates.boxes.gt_boxes + 1000)
    criterion = Criterion(classification=RankSort(), instance_weight=IoUWeight())
    output, _, grad = gradients(criterion, without_overlap)
    assert output.losses["loss_box"] == 0 and (grad == 0).all()


def test_a_normalizer_divides_the_box_loss_by_its_count_times_the_mean_weight():
    candidates = make_candidates(LABELS)
    criterion = Criterion(
        classification=Focal(),
        instance_weight=CenternessWeight(),
        balance=ConstantBalance(2.0),
        normalizer=PositiveCount(momentum=0.5),
    )
    criterion.normalizer.average.fill_(12)
    weights = CenternessWeight()(candidates)
    mean = (weights * GIoU()(candidates)).sum() / weights.sum()
    loss = criterion(candidates).losses["loss_box"]
    torch.testing.assert_close(loss, 2 * mean * 4 / 8)  # 4 positives, moving average 8


def changed_candidates(**fields):
    return replace_fields(make_candidates(LABELS), **fields)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RankSort(delta=-1), "delta: expected a finite number of at least 0, got -1"),
        (lambda: AveragePrecision(distance="steep"), "distance: expected one of step, sigmoid"),
        (lambda: APE(lam=0), "lam: expected a finite number above 0"),
        (lambda: RankDet(negatives="all"), "negatives: expected one of group, ohem"),
        (lambda: RankDet(iou_gradient="lower"), "iou_gradient: expected one of higher"),
        (lambda: RankDet(class_weight=-1), "class_weight: expected"),
        (lambda: SmoothL1(beta=-0.1), "beta: expected a finite number of at least 0, got -0.1"),
        (lambda: SmoothL1(weights=(1.0, 2.0)), r"four numbers, got \(1.0, 2.0\)"),
        (lambda: ConstantBalance(-2), "weight: expected a finite number of at least 0, got -2"),
        (lambda: HistoryBalance(0), "period: expected"),
        (lambda: ALRPCriterion(balance=ValueBalance(), tau=1.0), r"tau: .* in \[0, 1\), got 1.0"),
        (lambda: PositiveCount(momentum=1.0), r"momentum: expected a number in \[0, 1\), got 1.0"),
        (lambda: rank_sort(rank_scope="node"), "rank_scope: expected one of image, gpu, global"),
        (
            lambda: rank_sort(normalizer=PositiveCount()),
            "normalizer: expected None because RankSort is already normalized, got PositiveCount",
        ),
        (
            lambda: Criterion(classification=Focal()),
            "normalizer: expected a Normalizer such as PositiveCount because Focal is a sum, got",
        ),
        (
            lambda: Criterion(classification=APE(), rank_scope="global"),
            "rank_scope: expected 'image' or 'gpu' because APE cannot rank across processes, "
            "got 'global'",
        ),
        (
            lambda: Criterion(
                classification=Focal(), normalizer=PositiveCount(), rank_scope="image"
            ),
            "rank_scope: expected 'gpu' because Focal does not rank, got 'image'",
        ),
        (
            lambda: changed_candidates(labels=LABELS[:3]),
            r"labels: expected an int64 tensor of shape \(8,\)",
        ),
        (
            lambda: changed_candidates(positives=torch.zeros(0, dtype=torch.int64)),
            r"boxes.outputs: expected shape \(0, 4\), one box for each of the 0 positives, got",
        ),
        (
            lambda: changed_candidates(positives=torch.zeros(0, dtype=torch.int64), boxes=None),
            r"positives: expected the 4 rows whose label is a class, in ascending order, .* \(0,\)",
        ),
        (
            lambda: changed_candidates(positives=torch.tensor([0, 2, 5, 6])),
            r"positives: expected the 4 rows whose label is a class, in ascending order, .* \(4,\)",
        ),
        (
            lambda: changed_candidates(positives=torch.tensor([2, 0, 5, 7])),
            "positives: expected the 4 rows whose label is a class, in ascending order",
        ),
        (
            lambda: changed_candidates(positives=torch.tensor([0.0, 2, 5, 7])),
            "positives: expected an int64 tensor of shape .4,. on cpu, one entry per positive, "
            "got torch.float32 of shape .4,.",
        ),
        (
            lambda: changed_candidates(outputs=torch.zeros(3, 4)),
            r"boxes.outputs: expected shape \(4, 4\), one box for each of the 4 positives, "
            r"got .* \(3, 4\)",
        ),
        (
            lambda: changed_candidates(gt_boxes=torch.zeros(4, 5)),
            r"boxes.gt_boxes: expected shape \(4, 4\), one box for each of the 4 positives, "
            r"got .* \(4, 5\)",
        ),
        (
            lambda: changed_candidates(image=torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])),
            "image: expected image indices 0..1 in ascending order",
        ),
        (
            lambda: changed_candidates(image=torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])),
            "image: expected image indices 0..1 in ascending order",
        ),
        (
            lambda: changed_candidates(level=torch.zeros(8)),
            "level: expected an int64 tensor of shape .8,. on cpu, one entry per row, "
            "got torch.float32",
        ),
        (
            lambda: changed_candidates(continuous_labels=torch.zeros(3)),
            "continuous_labels: expected a float tensor of shape .4,. on cpu, "
            "one entry per positive, got",
        ),
        (
            lambda: changed_candidates(
                masks=dataclasses.replace(make_masks([0, 1]), masks=torch.zeros(2, 4))
            ),
            "masks: expected the same shape .Q, h, w. as logits, got torch.float32 of shape",
        ),
        (
            lambda: changed_candidates(
                masks=dataclasses.replace(make_masks([0]), index=torch.tensor([0, 1]))
            ),
            "masks.index: expected an int64 tensor of shape .1,. on cpu, one entry per mask, "
            "got torch.int64",
        ),
        *[
            (
                lambda rows=rows: changed_candidates(positives=torch.tensor(rows)),
                "positives: expected the 4 rows whose label is a class, in ascending order, "
                "got torch.int64",
            )
            for rows in ([-1, 0, 1, 2], [0, 1, 2, 99])
        ],
        (
            lambda: changed_candidates(masks=make_masks([0, 4])),
            r"masks.index: expected indices of positives in \[0, 4\), got indices from 0 to 4",
        ),
        (
            lambda: rank_sort(localization=MaskDice())(make_candidates(LABELS)),
            "candidates.masks: expected the masks of the positives, got None",
        ),
        (
            lambda: rank_sort()(changed_candidates(boxes=None, masks=make_masks([0]))),
            "candidates.boxes: expected the boxes of the positives, got None",
        ),
        (
            lambda: rank_sort(localization=[GIoU(), SmoothL1()]),
            "localization: expected a Localization, or several with losses of different names, got",
        ),
        (lambda: rank_sort(localization=[torch.nn.Identity()]), "localization: .* got Identity"),
        (
            lambda: changed_candidates(branch_logits=torch.zeros(7)),
            "branch_logits: expected a float tensor of shape .8,. on cpu, one entry per row, "
            "got .*.7,.",
        ),
        (lambda: make_candidates(LABELS, num_classes=3), "labels: expected a class below 3"),
    ],
)
def test_the_error_names_the_wrong_argument(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_alrp_criterion_equals_alrp_loss_with_the_giou_errors_of_the_boxes():
    candidates = make_candidates(LABELS)
    criterion = ALRPCriterion(balance=ConstantBalance(3.0), tau=0.7)
    output, grad, box_grad = gradients(criterion, candidates)
    same_candidates = make_candidates(LABELS)
    rows = (LABELS >= 0).nonzero().squeeze(1)
    errors = GIoU()(same_candidates) / (2 * 0.3)
    entries = same_candidates.logits.masked_fill((LABELS == IGNORE)[:, None], -torch.inf).reshape(
        -1
    )
    expected = alrp_loss(entries, rows * 4 + LABELS[rows], errors)
    torch.testing.assert_close(output.losses["loss_cls"], expected.classification)
    torch.testing.assert_close(output.losses["loss_box"], 3 * expected.localization)
    (expected.classification + 3 * expected.localization).backward()
    torch.testing.assert_close(grad, same_candidates.logits.grad)
    torch.testing.assert_close(box_grad, same_candidates.boxes.outputs.grad)


@pytest.mark.parametrize("name", ["rank_sort", "ap", "alrp", "ape", "rankdet"])
def test_rank_scope_image_averages_over_images_with_a_positive(name):
    labels = torch.tensor([0, BACKGROUND, 3, IGNORE, BACKGROUND, BACKGROUND, 1, BACKGROUND, 2])
    candidates = make_candidates(labels, num_images=3)
    assert candidates.image.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]  # image 1 has no positive
    output = with_scope(CRITERIA[name], "image")(candidates)
    same_candidates = make_candidates(labels, num_images=3)
    criterion = with_scope(CRITERIA[name], "gpu")
    image_losses = [
        criterion(part).losses for part in same_candidates.images() if len(part.positives)
    ]
    task = [key for key in output.losses if key != "loss_box"]
    assert len(image_losses) == 2
    for key in task:
        expected = (image_losses[0][key] + image_losses[1][key]) / 2
        torch.testing.assert_close(output.losses[key], expected)
    sum(output.losses[key] for key in task).backward()
    sum(sum(part[key] for key in task) / 2 for part in image_losses).backward()
    torch.testing.assert_close(candidates.logits.grad, same_candidates.logits.grad)


def with_scope(build, scope):
    criterion = build()
    criterion.rank_scope = scope
    return criterion


def test_rank_sort_may_rank_positives_with_a_continuous_label_of_0_among_the_negatives():
    labels = torch.tensor([0.5, 0.0, 0.7, 0.0])
    candidates = dataclasses.replace(make_candidates(LABELS), continuous_labels=labels)
    criterion = Criterion(classification=RankSort(zero_is_negative=True))
    losses = criterion(candidates).losses
    logits, positives = candidates.entries()
    expected = rank_sort_loss(logits, positives[[0, 2]], labels[[0, 2]])
    torch.testing.assert_close(losses["loss_rank"], expected.ranking)
    torch.testing.assert_close(losses["loss_sort"], expected.sorting)
    plain = Criterion(classification=RankSort())(candidates).losses
    assert plain["loss_rank"] != losses["loss_rank"]
    # All four boxes are trained, whatever their labels.
    losses["loss_box"].backward()
    assert candidates.boxes.outputs.grad.any(dim=1).all()
