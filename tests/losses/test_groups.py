"""One ranking over several workers equals the ranking of all logits in one process."""

import pytest
import torch
from torch import distributed as dist

from ranking_det.losses import alrp_loss, ap_loss, rank_sort_loss
from tests.cases import run_workers
from tests.losses.cases import gradient, random_case

LOSSES = {
    "rank_sort": lambda logits, positives, quality, group=None: tuple(
        rank_sort_loss(logits, positives, quality, group=group)
    ),
    "ap": lambda logits, positives, _, group=None: (ap_loss(logits, positives, group=group),),
    "ap by negatives": lambda logits, positives, _, group=None: (
        ap_loss(logits, positives, balance="negatives", group=group),
    ),
    "ap by sigmoid": lambda logits, positives, _, group=None: (
        ap_loss(logits, positives, distance="sigmoid", group=group),
    ),
    "ap by cross entropy": lambda logits, positives, _, group=None: (
        ap_loss(logits, positives, distance="cross_entropy", group=group),
    ),
    "alrp": lambda logits, positives, quality, group=None: tuple(
        alrp_loss(logits, positives, 1 - quality, group=group)
    ),
}

# The number of positives and negatives of each worker, by the number of workers.
WORKER_COUNTS = {
    2: {
        "even": [(10, 40), (10, 40)],
        "uneven": [(3, 90), (17, 20)],
        "a worker without positives": [(0, 50), (12, 30)],
        "a worker without rows": [(12, 30), (0, 0)],
        "no worker has positives": [(0, 20), (0, 30)],
    },
    3: {
        "uneven": [(1, 40), (20, 5), (7, 60)],
        "workers without positives and without rows": [(0, 25), (9, 30), (0, 0)],
    },
}


def worker_case(counts, rank):
    positives, negatives = counts[rank]
    case = random_case(positives, negatives, seed=rank) if positives + negatives else None
    if case is None:
        empty = torch.zeros(0, dtype=torch.float64)
        return empty.clone().requires_grad_(), torch.zeros(0, dtype=torch.int64), empty
    return case


def results(logits, positives, quality, group=None):
    outputs = {}
    for name, loss in LOSSES.items():
        quality = quality.detach().requires_grad_()
        values = loss(logits, positives, quality, group=group)
        gradients = [
            torch.autograd.grad(value, (logits, quality), retain_graph=True, allow_unused=True)
            for value in values
        ]
        outputs[name] = [value.detach() for value in values], gradients
    return outputs


def run_worker(rank, size, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=size)
    outputs = {
        name: results(*worker_case(counts, rank), group=dist.group.WORLD)
        for name, counts in WORKER_COUNTS[size].items()
    }
    torch.save(outputs, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def results_of_one_process(counts):
    cases = [worker_case(counts, rank) for rank in range(len(counts))]
    lengths = [len(logits) for logits, _, _ in cases]
    offsets = [sum(lengths[:rank]) for rank in range(len(cases))]
    logits = torch.cat([logits.detach() for logits, _, _ in cases]).requires_grad_()
    shifted = [case[1] + offset for case, offset in zip(cases, offsets, strict=True)]
    quality = torch.cat([quality for _, _, quality in cases])
    return results(logits, torch.cat(shifted), quality), (lengths, [len(case[1]) for case in cases])


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", WORKER_COUNTS)
def test_every_worker_has_the_value_of_the_whole_ranking_and_its_slice_of_the_gradient(
    size, tmp_path
):
    run_workers(run_worker, size, str(tmp_path))
    outputs = [torch.load(tmp_path / f"{rank}.pt") for rank in range(size)]
    for name, counts in WORKER_COUNTS[size].items():
        expected, lengths = results_of_one_process(counts)
        for loss, (values, gradients) in expected.items():
            for rank in range(size):
                worker_values, worker_gradients = outputs[rank][name][loss]
                for part, value in enumerate(values):
                    assert_same(worker_values[part], value)
                    for gradient_slice, whole, counts_of_workers in zip(
                        worker_gradients[part], gradients[part], lengths, strict=True
                    ):
                        assert (gradient_slice is None) == (whole is None)
                        if whole is not None:
                            expected_slice = torch.split(whole, counts_of_workers)[rank]
                            assert_same(gradient_slice, expected_slice)


def test_a_group_of_one_process_does_not_change_the_loss(tmp_path):
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        case = random_case()
        ungrouped = rank_sort_loss(*case)
        grouped = rank_sort_loss(*case, group=dist.group.WORLD)
        for one, other in zip(ungrouped, grouped, strict=True):
            assert torch.equal(one, other)
            assert torch.equal(gradient(one, case.logits), gradient(other, case.logits))
    finally:
        dist.destroy_process_group()
