"""Negatives of -inf (the entries of ignored rows) do not change any loss or gradient."""

import pytest
import torch
from torch import distributed as dist

from ranking_det.labels import BACKGROUND, IGNORE
from ranking_det.losses import (
    alrp_loss,
    ap_loss,
    ape_loss,
    class_specific_ranking_loss,
    cross_entropy,
    global_ranking_loss,
    group_negatives,
    hardest_negatives,
    rank_sort_loss,
)
from ranking_det.losses.kernels.ranked_logits import highest_negatives
from tests.cases import run_workers
from tests.losses.cases import assert_close, random_case

POSITIVES, NEGATIVES, ABSENT = 12, 40, 30
# No limit; 0; below, at and above the number of finite negatives; above that of all negatives.
LIMITS = [None, 0, 7, NEGATIVES, NEGATIVES + 5, NEGATIVES + ABSENT + 50]
LOSSES = {
    "rank_sort": lambda logits, positives, quality, group: rank_sort_loss(
        logits, positives, quality, group=group
    ),
    "alrp": lambda logits, positives, quality, group: alrp_loss(
        logits, positives, 1 - quality, group=group
    ),
}
for _limit in LIMITS:
    for _distance in ("step", "sigmoid", "cross_entropy"):
        for _balance in ("rank", "negatives"):
            LOSSES[f"ap {_distance} {_balance} {_limit}"] = (
                lambda logits, positives, _, group, limit=_limit, d=_distance, b=_balance: [
                    ap_loss(
                        logits, positives, distance=d, balance=b, max_negatives=limit, group=group
                    )
                ]
            )
APE_LOSSES = {
    f"ape {cutoff} {limit}": (
        lambda logits, positives, quality, group, cutoff=cutoff, limit=limit: [
            ape_loss(logits, positives, quality, cutoff=cutoff, max_negatives=limit)
        ]
    )
    for cutoff in (-4.0, None)
    for limit in LIMITS
}


def with_absent(case, absent=ABSENT, seed=0):
    """Insert ``absent`` entries of -inf at random; also return where the original entries are."""
    count = len(case.logits)
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randperm(count + absent, generator=generator)[:count].sort().values
    logits = torch.full((count + absent,), -torch.inf, dtype=case.logits.dtype)
    logits[indices] = case.logits.detach()
    return case._replace(logits=logits.requires_grad_(), positives=indices[case.positives]), indices


def values_and_gradients(loss, case, group=None):
    """Compute the values, and their gradients with respect to logits and qualities."""
    inputs = case.logits, case.quality.detach().requires_grad_()
    values = loss(case.logits, case.positives, inputs[1], group)
    return torch.stack([value.detach() for value in values]), [
        torch.autograd.grad(
            value, inputs, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for value in values
    ]


def compare(loss, case, absent=ABSENT, group=None):
    """Assert that absent negatives do not change a loss; return its gradients."""
    padded, indices = with_absent(case, absent)
    expected, expected_gradients = values_and_gradients(loss, case, group)
    values, gradients = values_and_gradients(loss, padded, group)
    assert_close(values, expected, 1e-12)
    for actual, reference in zip(gradients, expected_gradients, strict=True):
        assert_close(actual[0][indices], reference[0], 1e-12)
        assert_close(actual[1], reference[1], 1e-12)
        assert not actual[0][padded.logits == -torch.inf].any()
    return [logit_gradient for logit_gradient, _ in gradients]


@pytest.mark.parametrize("name", LOSSES | APE_LOSSES)
def test_absent_negatives_do_not_change_a_loss(name):
    loss = (LOSSES | APE_LOSSES)[name]
    gradients = compare(loss, random_case(POSITIVES, NEGATIVES))
    assert any(gradient.any() for gradient in gradients) or name.endswith(" 0")
    compare(loss, random_case(POSITIVES, 0))
    compare(loss, random_case(POSITIVES, NEGATIVES), absent=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_highest_negatives_excludes_positives_and_selects_absent_negatives_last(dtype):
    case, _ = with_absent(random_case(POSITIVES, NEGATIVES))
    logits = case.logits.detach().to(dtype)
    for count in (0, 1, NEGATIVES - 1, NEGATIVES, NEGATIVES + 3, NEGATIVES + ABSENT, 10_000):
        index = highest_negatives(logits, case.positives, count)
        assert len(index) == min(count, NEGATIVES + ABSENT)
        assert not torch.isin(index, case.positives).any() and len(index.unique()) == len(index)
        assert logits[index].isfinite().sum() == min(count, NEGATIVES)


def test_the_lowest_float16_logit_is_selected_before_absent_negatives():
    lowest = torch.finfo(torch.float16).min
    logits = torch.tensor([lowest] + [-torch.inf] * 99 + [1.0], dtype=torch.float16)
    assert highest_negatives(logits, torch.tensor([100]), 1).tolist() == [0]


def run_worker(rank, size, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=size)
    for loss in LOSSES.values():
        compare(loss, random_case(4 + 5 * rank, NEGATIVES, seed=rank), group=dist.group.WORLD)
        # All negatives of the worker of rank 0 are absent.
        compare(loss, random_case(6, 20 * rank, seed=rank), group=dist.group.WORLD)
    dist.destroy_process_group()


def test_absent_negatives_do_not_change_a_ranking_of_two_processes(tmp_path):
    run_workers(run_worker, 2, str(tmp_path))


@pytest.mark.parametrize("reweight", [True, False])
@pytest.mark.parametrize("distance", ["exp", "sigmoid", "logistic"])
def test_absent_negatives_do_not_change_rankdetnet_losses(distance, reweight):
    generator = torch.Generator().manual_seed(0)
    options = dict(distance=distance, reweight=reweight)
    scores = torch.randn(30, 3, dtype=torch.float64, generator=generator).requires_grad_()
    labels = torch.randint(-1, 3, (30,), generator=generator)
    absent = torch.full((9, 3), -torch.inf, dtype=torch.float64)
    padded_scores = torch.cat([scores, absent])
    all_labels = torch.cat([labels, torch.full((9,), BACKGROUND)])
    for mined in (
        dict(negatives="group", groups=4),
        dict(negatives="ohem", ratio=1),
        dict(negatives="ohem", ratio=100),
    ):
        expected = class_specific_ranking_loss(scores, labels, **mined, **options)
        loss = class_specific_ranking_loss(padded_scores, all_labels, **mined, **options)
        assert_close(loss, expected, 1e-12)
        assert_close(
            torch.autograd.grad(loss, scores, retain_graph=True)[0],
            torch.autograd.grad(expected, scores)[0],
            1e-12,
        )
    foreground, background = scores[:10, 0], scores[10:, 0]
    loss = global_ranking_loss(foreground, torch.cat([background, absent[:, 0]]), **options)
    expected = global_ranking_loss(foreground, background, **options)
    assert_close(loss, expected, 1e-12)
    assert_close(
        torch.autograd.grad(loss, scores)[0], torch.autograd.grad(expected, scores)[0], 1e-12
    )
    only_absent = absent[:, 0].clone().requires_grad_()
    loss = global_ranking_loss(foreground, only_absent, **options)
    assert loss == 0 and not torch.autograd.grad(loss, only_absent)[0].any()


@pytest.mark.parametrize("equal_count", [True, False])
def test_negative_mining_ignores_absent_negatives(equal_count):
    scores = torch.tensor([-torch.inf, 0.0, 0.1, -torch.inf, 0.9, 1.0, -torch.inf])
    scores.requires_grad_()
    means = group_negatives(scores, 2, equal_count=equal_count)
    assert means.tolist() == pytest.approx([0.05, 0.95])
    (gradient,) = torch.autograd.grad(means.sum(), scores)
    assert gradient.tolist() == pytest.approx([0, 0.5, 0.5, 0, 0.5, 0.5, 0])
    assert len(group_negatives(torch.full((3,), -torch.inf), 2, equal_count=equal_count)) == 0
    assert hardest_negatives(scores, 6)[:4].tolist() == pytest.approx([1.0, 0.9, 0.1, 0.0])


def test_the_cross_entropy_ignores_classes_at_minus_infinity():
    scores = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, BACKGROUND, 2, 1, IGNORE, BACKGROUND])
    padded_scores = torch.cat([scores, torch.full((6, 2), -torch.inf, dtype=torch.float64)], dim=1)
    expected, loss = cross_entropy(scores, labels), cross_entropy(padded_scores, labels)
    assert_close(loss, expected, 1e-12)
    assert_close(
        torch.autograd.grad(loss, scores)[0], torch.autograd.grad(expected, scores)[0], 1e-12
    )
