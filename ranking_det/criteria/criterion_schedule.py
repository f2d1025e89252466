"""Criteria that take turns over one training."""

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
    """Criteria that take turns over one training, such as a focal stage before a ranking stage.

    RankDetNet (Liu et al., CVPR 2021) starts from a detector that was trained with focal loss. The
    step is a buffer, so that a resumed run goes on in its stage. The learning rate is restarted by
    the schedule of the optimizer, not here.

    Args:
        stages: the criteria, in order; all or none with a ``branch``.
        shares: what each stage has of the training, > 0 and 1 in sum.
        max_iter: training steps in all, >= 1; the last stage goes on beyond them.
    """

    def __init__(self, stages: Sequence[Criterion], shares: Sequence[float], max_iter: int) -> None:
        super().__init__()
        expected = f"one for each of the {len(stages)} stages, at least one"
        check_that(len(shares) == len(stages) > 0, "shares", expected, len(shares))
        for share in shares:
            check_at_least("shares", share, 0.0, strictly=True)
        check_that(abs(sum(shares) - 1) <= 1e-6, "shares", "a sum of 1", sum(shares))
        check_integer("max_iter", max_iter, 1)
        if len({stage.branch is None for stage in stages}) > 1:
            raise ValueError("stages: expected a branch in all of them or in none")
        self.stages = nn.ModuleList(stages)
        self.ends = [round(end * max_iter) for end in accumulate(shares)]
        self.counter = StepCounter()

    @property
    def criteria(self) -> list[Criterion]:
        """The stages."""
        return list(self.stages)  # type: ignore[arg-type]

    def forward(self, candidates: Candidates) -> CriterionOutput:
        """Call the criterion of the step; see :class:`Criterion`. In training, count the step."""
        step = self.counter(count=self.training)
        stage = sum(step >= end for end in self.ends[:-1])
        output: CriterionOutput = self.stages[stage](candidates)
        output.metrics["stage"] = torch.full_like(output.task_loss, stage)
        return output
