"""Memory of the losses. benchmarks/losses.py measures their speed: test machines are too noisy."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from ranking_det.losses import alrp_loss, ap_loss, class_specific_ranking_loss, rank_sort_loss

def class_specific(logits, positives, quality):
    labels = torch.full((len(logits) // 80,), -1)
    labels[: len(positives)] = torch.arange(len(positives)) % 80
    return class_specific_ranking_loss(logits.view(-1, 80), labels)

LOSSES = {
    "rank_sort": lambda logits, positives, quality: sum(rank_sort_loss(logits, positives, quality)),
    "ap": lambda logits, positives, _: ap_loss(logits, positives),
    "alrp": lambda logits, positives, quality: sum(alrp_loss(logits, positives, quality)),
    "class_specific": class_specific,
}

def peak():
    # Not getrusage: on Linux it starts from the peak of the parent process.
    try:
        status = open("/proc/self/status").read()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def run(names, m, p):
    logits = torch.empty(m).uniform_(-6, 0).requires_grad_()
    positives = torch.arange(p) * (m // p)
    quality = torch.rand(p)
    before = peak()
    for name in names:
        logits.grad = None
        LOSSES[name](logits, positives, quality).backward()
    return (peak() - before) / logits.nbytes

run(LOSSES, 100_000, 10)
print(run(sys.argv[1].split(), int(sys.argv[2]), int(sys.argv[3])))
"""


def extra_memory(losses, logits, positives):
    """Measure the peak memory of the losses in a new process, in units of the logits' memory."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, losses, str(logits), str(positives)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(run.stdout)


def test_peak_memory_with_the_gradient_is_at_most_four_times_the_logits():
    assert extra_memory("rank_sort ap alrp", 8_000_000, 500) < 4


def test_classes_are_ranked_in_blocks_of_bounded_memory():
    # The scores and indices of all 80 classes in one block would be over 6 times the logits.
    assert extra_memory("class_specific", 16_000_000, 500) < 4


def test_memory_is_not_quadratic_in_the_number_of_positives():
    # An 8,000 x 8,000 matrix of float64 would be 32 times the logits.
    assert extra_memory("rank_sort", 4_000_000, 8_000) < 8


@pytest.mark.slow
def test_an_lvis_batch_of_240_million_logits_fits_in_8_gigabytes():
    size = 240_000_000
    assert (1 + extra_memory("rank_sort", size, 1000)) * size * 4 < 7.5e9
