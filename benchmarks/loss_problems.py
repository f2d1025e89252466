"""Loss benchmark: random logits, the losses on them, and measurements of time and memory."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor
from torch.nn import functional

from ranking_det.losses import alrp_loss, ap_loss, ape_loss, rank_sort_loss

# Mean and standard deviation of the negatives' logits, then of the positives' logits, at the start,
# in the middle and at the end of training.
STAGES = {
    "init": (-4.6, 0.1, -4.6, 0.1),
    "mid": (-5.0, 1.0, -1.0, 1.2),
    "late": (-6.0, 1.0, 1.0, 0.8),
}


class Problem:
    """Logits of one stage of training, and the losses on them, forward and backward.

    Args:
        stage: "init", "mid" or "late".
        positives: P, >= 1.
        logits: M, >= P.
        device: "cpu" or "cuda".
    """

    def __init__(self, stage: str, positives: int, logits: int, device: str) -> None:
        torch.manual_seed(0)
        low, low_deviation, high, high_deviation = STAGES[stage]
        self.logits = torch.empty(logits, device=device).normal_(low, low_deviation)
        stride = logits // positives
        order = torch.randperm(positives, device=device)
        self.positives = order * stride
        self.logits[self.positives] = torch.randn(positives, device=device) * high_deviation + high
        self.logits.requires_grad_()
        self.quality = torch.rand(positives, device=device)

    def run(self, name: str) -> None:
        """Compute one loss and its gradient."""
        self.logits.grad = None
        getattr(self, name)().backward()

    def prepare_focal(self) -> None:
        """Make the one-hot targets, which are not part of the measured time."""
        self.targets = torch.zeros_like(self.logits, requires_grad=False)
        self.targets[self.positives] = 1

    def focal(self) -> Tensor:
        """Compute fvcore's focal loss."""
        return sigmoid_focal_loss(self.logits, self.targets, reduction="sum")

    def rank_sort(self) -> Tensor:
        """Compute both parts of Rank & Sort Loss."""
        return sum(rank_sort_loss(self.logits, self.positives, self.quality))

    def ap(self) -> Tensor:
        """Compute AP Loss."""
        return ap_loss(self.logits, self.positives)

    def alrp(self) -> Tensor:
        """Compute both parts of aLRP Loss; the boxes have no gradient here."""
        return sum(alrp_loss(self.logits, self.positives, 1 - self.quality))

    def ape(self) -> Tensor:
        """Compute APE Loss."""
        return ape_loss(self.logits, self.positives, self.quality)

    def rank_sort_loop(self) -> Tensor:
        """Compute Rank & Sort Loss in a loop over positives, as a baseline."""
        logits, delta, count = self.logits.detach(), 0.5, len(self.positives)
        scores = logits[self.positives]
        relevant = logits >= scores.min() - delta
        relevant[self.positives] = False
        negatives, y = logits[relevant], self.quality
        at_negatives, at_positives = torch.zeros_like(negatives), torch.zeros_like(scores)
        for i in range(count):
            above = (scores - scores[i]).div_(2 * delta).add_(0.5).clamp_(0, 1)
            negatives_above = (negatives - scores[i]).div_(2 * delta).add_(0.5).clamp_(0, 1)
            false_positives, rank = negatives_above.sum(), above.sum()
            error = false_positives / (rank + false_positives)
            at_negatives += negatives_above * (error / false_positives.clamp_min(1e-10))
            better = above * (y >= y[i])
            sorting = (above * (1 - y)).sum() / rank - (better * (1 - y)).sum() / better.sum()
            worse = above - better
            at_positives += worse * (sorting / worse.sum().clamp_min(1e-10))
            at_positives[i] -= error + sorting
        gradient = torch.zeros_like(logits)
        gradient[relevant] = at_negatives / count
        gradient[self.positives] = at_positives / count
        return (self.logits * gradient).sum()

    def ape_loop(self) -> Tensor:
        """Compute APE Loss in a loop over positives, with autograd through the pairs of each."""
        is_positive = torch.zeros_like(self.logits, dtype=torch.bool)
        is_positive[self.positives] = True
        negatives, scores, total = self.logits[~is_positive], self.logits[self.positives], 0.0
        for score, quality in zip(scores, self.quality, strict=True):
            differences, positive_differences = negatives - score, scores - score
            near, worse = positive_differences > -0.5, self.quality < quality
            x = 8 * torch.cat([differences[differences > -0.5], positive_differences[near & worse]])
            # Positives of at least this quality, including this one, count in the rank only.
            better = torch.sigmoid(8 * positive_differences.detach()[near & ~worse]).sum()
            constant = torch.sigmoid(x.detach()).sum() + better
            total = total + quality / constant * functional.softplus(x).sum()
        return total / 8 / len(scores)


def seconds(function: Callable[[], None], device: str) -> float:
    """Time one call."""
    if device == "cpu":
        start = time.perf_counter()
        function()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def compare(problem: Problem, names: list[str], device: str, rounds: int) -> dict[str, float]:
    """Measure the median time of each loss; calls are interleaved, after one warm-up round."""
    if "focal" in names:
        problem.prepare_focal()
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_index in range(rounds + 1):
        for name in names:
            elapsed = seconds(lambda name=name: problem.run(name), device)
            # Slow losses run a single round, without warm-up.
            if round_index or rounds == 1:
                times[name].append(elapsed)
    return {name: statistics.median(elapsed) for name, elapsed in times.items()}


def peak_memory() -> int:
    """Return the peak resident memory of this process, in bytes."""
    # Not getrusage: on Linux it starts from the peak of the parent process.
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(stage: str, positives: int, logits: int, name: str, device: str) -> dict[str, float]:
    """Measure time and peak memory of one loss in this process, which should be fresh."""
    Problem(stage, 10, 1000, device).ap().backward()
    problem = Problem(stage, positives, logits, device)
    if name == "focal":
        problem.prepare_focal()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        initial_memory = torch.cuda.memory_allocated()
    else:
        initial_memory = peak_memory()
    elapsed = seconds(lambda: problem.run(name), device)
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = peak_memory()
    return {
        "seconds": elapsed,
        "extra": peak - initial_memory,
        "resident": peak,
        "logit_bytes": logits * 4,
    }
