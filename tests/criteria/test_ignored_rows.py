"""Ignored rows affect no loss: a criterion gives the same results with and without them."""

import dataclasses

import pytest
import torch
from torch import distributed as dist

from ranking_det.criteria import (
    APE,
    AveragePrecision,
    Criterion,
    CrossEntropy,
    PositiveCount,
    RankDet,
    RankSort,
    UniformWeight,
)
from ranking_det.labels import BACKGROUND, IGNORE
from tests.cases import run_workers
from tests.criteria.cases import CRITERIA, make_candidates


def scoped(classification, scope, **parts):
    return lambda: Criterion(
        classification=classification(),
        rank_scope=scope,
        **{name: part() for name, part in parts.items()},
    )


RANKING_LOSSES = {
    "rank_sort": RankSort,
    "ap": AveragePrecision,
    "ap with a limit": lambda: AveragePrecision(max_negatives=30),
    "ap sigmoid with a limit": lambda: AveragePrecision(distance="sigmoid", max_negatives=30),
}
ONE_PROCESS_LOSSES = {
    "ape": APE,
    "ape with a limit": lambda: APE(max_negatives=30),
    "rankdet": RankDet,
    "rankdet ohem": lambda: RankDet(negatives="ohem"),
    "rankdet logits": lambda: RankDet(probabilities=False),
    "rankdet ohem of logits": lambda: RankDet(negatives="ohem", ratio=50, probabilities=False),
}
SCOPED_CRITERIA = {
    "global": {name: scoped(loss, "global") for name, loss in RANKING_LOSSES.items()},
    "image": {
        name: scoped(loss, "image", instance_weight=UniformWeight)
        for name, loss in (RANKING_LOSSES | ONE_PROCESS_LOSSES).items()
    },
    "gpu": CRITERIA
    | {name: scoped(loss, "gpu") for name, loss in (RANKING_LOSSES | ONE_PROCESS_LOSSES).items()}
    | {"cross_entropy": scoped(CrossEntropy, "gpu", normalizer=PositiveCount)},
}

LABELS = torch.tensor([0, BACKGROUND, 3, BACKGROUND, 1, BACKGROUND, 2, 0, BACKGROUND, 3])


def add_ignored(labels, seed):
    """Make candidates without and with ignored rows.

    The ignored rows are between and after the other rows. Also return the indices of the others.
    """
    without_ignored = make_candidates(labels, seed=seed)
    indices = torch.arange(len(labels)) * 4 // 3
    rows = int(indices[-1]) + 3
    logits = torch.randn(rows, without_ignored.logits.shape[1])
    logits[1::3] = -torch.inf
    logits[indices] = without_ignored.logits.detach()
    image = without_ignored.image[(torch.searchsorted(indices, torch.arange(rows), right=True) - 1)]
    all_labels = torch.full((rows,), IGNORE)
    all_labels[indices] = labels
    with_ignored = dataclasses.replace(
        without_ignored,
        logits=logits.requires_grad_(),
        labels=all_labels,
        positives=indices[without_ignored.positives],
        image=image,
        level=torch.zeros_like(image),
    )
    return without_ignored, with_ignored, indices


def compare_criteria(build, seed=0):
    without_ignored, with_ignored, indices = add_ignored(LABELS, seed)
    expected, output = build()(without_ignored), build()(with_ignored)
    assert expected.losses.keys() == output.losses.keys()
    for name, loss in expected.losses.items():
        torch.testing.assert_close(output.losses[name], loss, rtol=1e-5, atol=1e-7)
    losses = [sum(x.losses.values()) for x in (expected, output)]
    expected_gradient = torch.autograd.grad(losses[0], without_ignored.logits)[0]
    gradient = torch.autograd.grad(losses[1], with_ignored.logits)[0]
    torch.testing.assert_close(gradient[indices], expected_gradient, rtol=1e-5, atol=1e-7)
    assert expected_gradient.any() and not gradient[with_ignored.labels == IGNORE].any()


@pytest.mark.parametrize(
    ("scope", "name"),
    [(scope, name) for scope in SCOPED_CRITERIA for name in SCOPED_CRITERIA[scope]],
)
def test_a_criterion_gives_the_same_results_with_ignored_rows_as_without(scope, name):
    compare_criteria(SCOPED_CRITERIA[scope][name])


@pytest.mark.parametrize("name", RANKING_LOSSES | ONE_PROCESS_LOSSES)
def test_ranking_criteria_ignore_background_rows_of_minus_infinity(name):
    without_ignored, with_ignored, _ = add_ignored(LABELS, seed=0)
    ignored = with_ignored.labels == IGNORE
    logits = with_ignored.logits.detach().masked_fill(ignored[:, None], -torch.inf).requires_grad_()
    labels = with_ignored.labels.masked_fill(ignored, BACKGROUND)
    expected = SCOPED_CRITERIA["image"][name]()(without_ignored)
    output = SCOPED_CRITERIA["image"][name]()(
        dataclasses.replace(with_ignored, logits=logits, labels=labels)
    )
    for part, loss in expected.losses.items():
        torch.testing.assert_close(output.losses[part], loss, rtol=1e-5, atol=1e-7)
    sum(output.losses.values()).backward()
    assert logits.grad.any() and not logits.grad[ignored].any()


def run_worker(rank, size, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=size)
    for build in SCOPED_CRITERIA["global"].values():
        compare_criteria(build, seed=rank)
    dist.destroy_process_group()


def test_a_ranking_of_two_processes_gives_the_same_results_with_ignored_rows_as_without(tmp_path):
    run_workers(run_worker, 2, str(tmp_path))


def test_a_positive_logit_of_minus_infinity_is_ranked_as_a_probability_of_0():
    without_ignored = make_candidates(LABELS)
    logits = without_ignored.logits.detach().clone()
    logits[0, 0] = -torch.inf
    candidates = dataclasses.replace(without_ignored, logits=logits.requires_grad_())
    criterion = Criterion(classification=RankDet(), instance_weight=UniformWeight())
    losses = criterion(candidates).losses
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values()) and logits.grad.isfinite().all()
