"""Criteria that take turns over one training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ranking_det.losses.candidates import Candidates, CriterionOutput
from ranking_det.losses.counter import StepCounter
from ranking_det.losses.criterion import Criterion
from ranking_det.losses.validation import check_integer


class CriterionSchedule(nn.Module):
    """Criteria that take turns over one training, such as a focal stage before a ranking stage.

    RankDetNet (Liu et al., CVPR 2021) starts from a detector that was trained with focal loss. The
    step is a buffer, so that a resumed run goes on in its stage. The learning rate is restarted by
    the schedule of the optimizer, not here.

    Args:
        stages: the criteria, in order; all or none with a ``branch``.
        lengths: training steps of each stage, >= 1; the last stage goes on beyond its own.
    """

    def __init__(self, stages: Sequence[Criterion], lengths: Sequence[int]) -> None:
        super().__init__()
        if not stages or len(stages) != len(lengths):
            raise ValueError(
                f"lengths: expected one for each of the {len(stages)} stages, at least one, got "
                f"{len(lengths)}"
            )
        for length in lengths:
            check_integer("lengths", length, 1)
        if len({stage.branch is None for stage in stages}) > 1:
            raise ValueError("stages: expected a branch in all of them or in none")
        self.stages = nn.ModuleList(stages)
        self.ends = torch.tensor(list(lengths)).cumsum(0).tolist()
        self.counter = StepCounter()

    @property
    def branch(self) -> nn.Module | None:
        """The first stage's branch loss; the others have one if it has."""
        branch: nn.Module | None = self.stages[0].branch  # type: ignore[assignment]
        return branch

    def forward(self, candidates: Candidates, labels: Tensor) -> CriterionOutput:
        """Call the criterion of the step; see :class:`Criterion`. In training, count the step."""
        step = self.counter(count=self.training)
        stage = sum(step >= end for end in self.ends[:-1])
        output: CriterionOutput = self.stages[stage](candidates, labels)
        output.metrics["stage"] = torch.full_like(output.task_loss, stage)
        return output
