"""Memory and growth; speed is for benchmarks/losses.py, since a shared machine is too noisy."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from ranking_det.losses import alrp_loss, ap_loss, rank_sort_loss

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def run(m, p):
    logits = torch.empty(m).normal_(-5, 1).requires_grad_()
    positives = torch.arange(p) * (m // p)
    quality = torch.rand(p)
    before = peak()
    {call}.backward()
    return peak() - before, logits.nbytes

run(100_000, 10)
extra, size = run(int(sys.argv[1]), int(sys.argv[2]))
print(extra / size)
"""
CALLS = {
    "rank_sort": "sum(rank_sort_loss(logits, positives, quality))",
    "ap": "ap_loss(logits, positives)",
    "alrp": "sum(alrp_loss(logits, positives, quality))",
}


def extra_memory(loss, logits, positives):
    program = PROGRAM.format(call=CALLS[loss])
    run = subprocess.run(
        [sys.executable, "-c", program, str(logits), str(positives)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(run.stdout)


@pytest.mark.parametrize("loss", CALLS)
def test_peak_memory_with_the_gradient_is_at_most_four_times_the_logits(loss):
    assert extra_memory(loss, 8_000_000, 500) < 4


def test_many_positives_need_no_square_of_memory():
    # An 8,000 x 8,000 matrix of float64 would be 32 times the logits.
    assert extra_memory("rank_sort", 4_000_000, 8_000) < 8


@pytest.mark.slow
def test_an_lvis_batch_of_240_million_logits_fits_in_8_gigabytes():
    size = 240_000_000
    assert (1 + extra_memory("rank_sort", size, 1000)) * size * 4 < 7.5e9
