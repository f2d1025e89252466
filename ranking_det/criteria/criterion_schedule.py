"""Criterion schedule: train in stages with several criteria, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import nn

from ranking_det.checks import check_at_least, check_integer, check_that
from ranking_det.criteria.candidates import Candidates, CriterionOutput
from ranking_det.criteria.criterion import Criterion, CriterionBase
from ranking_det.criteria.step_counter import StepCounter


class CriterionSchedule(CriterionBase):
    """Train with several criteria, such as a focal loss stage before a ranking loss stage.

    RankDetNet (Liu et al., CVPR 2021) starts from a detector that was trained with focal loss. The
    step is a buffer, so a resumed run continues in its stage. This class does not restart the
    learning rate at a stage; a learning-rate schedule may do so.

    Args:
        stages: the criteria, in order; all with a ``branch`` or all without one.
        shares: the fraction of the training steps of each stage, > 0, with sum 1.
        max_iter: the total number of training steps, >= 1; the last stage continues beyond it.

    Raises:
        ValueError: an argument is out of range, or only some stages have a branch.
    """

    def __init__(self, stages: Sequence[Criterion], shares: Sequence[float], max_iter: int) -> None:
        super().__init__()
        expected = f"one share for each of the {len(stages)} stages (at least one)"
        check_that(len(shares) == len(stages) > 0, "shares", expected, len(shares))
        for share in shares:
            check_at_least("shares", share, 0.0, strictly=True)
        check_that(abs(sum(shares) - 1) <= 1e-6, "shares", "a sum of 1", sum(shares))
        check_integer("max_iter", max_iter, 1)
        if len({stage.branch is None for stage in stages}) > 1:
            raise ValueError("stages: expected a branch in all of them or in none, got both")
        self.stages = nn.ModuleList(stages)
        self.ends = [round(end * max_iter) for end in accumulate(shares)]
        self.counter = StepCounter()

    @property
    def criteria(self) -> list[Criterion]:
        """The stages."""
        return list(self.stages)  # type: ignore[arg-type]

    def forward(self, candidates: Candidates) -> CriterionOutput:
        """Compute the losses with the criterion of the step; in training mode, count the step.

        Args:
            candidates: the candidates of one step.

        Returns:
            The output of the criterion, with the index of its stage as metric ``stage``.
        """
        step = self.counter(count=self.training)
        stage = sum(step >= end for end in self.ends[:-1])
        output: CriterionOutput = self.stages[stage](candidates)
        output.metrics["stage"] = torch.full_like(output.task_loss, stage)
        return output
