"""Training criterion: classification loss, localization tasks, instance weights and balance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch import distributed as dist

from ranking_det.checks import check_choice, check_that
from ranking_det.criteria.balance import ValueBalance
from ranking_det.criteria.candidates import Candidates, CriterionOutput
from ranking_det.criteria.classification import ALRP, Classification
from ranking_det.criteria.instance_weights import ScoreWeight
from ranking_det.criteria.localization import BranchLoss, GIoU, Localization
from ranking_det.criteria.normalizers import Normalizer
from ranking_det.labels import IGNORE
from ranking_det.losses.kernels import constants
from ranking_det.losses.kernels.collectives import (
    mean_over_workers,
    undo_average,
    weighted_mean,
    workers_of,
)


class CriterionBase(nn.Module):
    """Base class of criteria: computes the losses and describes the inputs that they need."""

    def forward(self, candidates: Candidates) -> CriterionOutput:
        """Compute the losses of one step.

        Args:
            candidates: the candidates of one step.

        Returns:
            The losses, instance weights and metrics.

        Raises:
            NotImplementedError: a subclass must define it.
        """
        raise NotImplementedError

    @property
    def criteria(self) -> list[Criterion]:
        """The criteria that this one consists of.

        Raises:
            NotImplementedError: a subclass must define it.
        """
        raise NotImplementedError

    @property
    def tasks(self) -> list[Localization]:
        """The localization tasks of all criteria."""
        return [task for criterion in self.criteria for task in criterion.tasks]

    @property
    def branch(self) -> BranchLoss | None:
        """The loss of the head's IoU or centerness branch; None for a head without one."""
        return self.criteria[0].branch_loss

    @property
    def softmax(self) -> bool:
        """Whether the scores are a softmax over the classes instead of one sigmoid per class.

        Raises:
            ValueError: the criteria disagree.
        """
        kinds = {criterion.classification.softmax for criterion in self.criteria}
        if len(kinds) > 1:
            raise ValueError(
                "criterion: expected either softmax or sigmoid in all stages, got both"
            )
        return kinds.pop()

    @property
    def uses_continuous_labels(self) -> bool:
        """Whether all criteria use the candidates' continuous labels."""
        return all(criterion.classification.uses_continuous_labels for criterion in self.criteria)

    @property
    def coder_weights(self) -> list[tuple[float, ...]]:
        """The box coder weights that each task on encoded boxes expects."""
        return [task.coder_weights for task in self.tasks if task.coder_weights is not None]


class Criterion(CriterionBase):
    """Combine a classification or ranking loss and localization losses into one training objective.

    The defaults follow Rank & Sort Loss (Oksuz et al., ICCV 2021): a GIoU loss, averaged with score
    weights (supplement, eq. S18), times the ratio of the two loss values (section S2.1).

    Args:
        classification: the classification loss, such as :class:`ranking_det.criteria.RankSort`.
        localization: a task on boxes or on masks, or several with losses of different names; see
            :mod:`ranking_det.criteria.localization`. None for :class:`ranking_det.criteria.GIoU`.
        instance_weight: the weights of the localization errors; see
            :mod:`ranking_det.criteria.instance_weights`. None for
            :class:`ranking_det.criteria.ScoreWeight`.
        balance: the balance of tasks that do not define a balance (tasks on masks define one);
            see :mod:`ranking_det.criteria.balance`. None for
            :class:`ranking_det.criteria.ValueBalance`.
        normalizer: the divisor of a classification loss that is a sum; see
            :mod:`ranking_det.criteria.normalizers`. The box loss is then the weighted sum of the
            errors, divided by this number times the mean weight. None for ranking losses, which are
            already normalized.
        branch: the loss of the IoU or centerness branch; None for a head without one. Not allowed
            for losses that train the order of the scores at inference.
        rank_scope: the entries that are ranked together. "gpu", as in the papers: all images of
            this process. "image": each image separately, averaged over images with a positive.
            "global": the images of all processes. The losses, and the gradients after
            DistributedDataParallel has averaged them, are then the same as in one process with all
            images.

    Raises:
        ValueError: the parts do not fit together.
    """

    def __init__(
        self,
        *,
        classification: Classification,
        localization: Localization | Sequence[Localization] | None = None,
        instance_weight: nn.Module | None = None,
        balance: nn.Module | None = None,
        normalizer: Normalizer | None = None,
        branch: BranchLoss | None = None,
        rank_scope: str = "gpu",
    ) -> None:
        super().__init__()
        check_choice("rank_scope", rank_scope, ("image", "gpu", "global"))
        name = type(classification).__name__
        is_valid = isinstance(classification, Classification)
        check_that(is_valid, "classification", "a Classification", classification)
        if classification.is_sum and not isinstance(normalizer, Normalizer):
            raise ValueError(
                f"normalizer: expected a Normalizer such as PositiveCount because {name} is a sum, "
                f"got {normalizer!r}"
            )
        if not classification.is_sum and normalizer is not None:
            raise ValueError(
                f"normalizer: expected None because {name} is already normalized, "
                f"got {normalizer!r}"
            )
        if classification.is_sum and rank_scope != "gpu":
            raise ValueError(
                f"rank_scope: expected 'gpu' because {name} does not rank, got {rank_scope!r}"
            )
        if rank_scope == "global" and not classification.across_workers:
            raise ValueError(
                f"rank_scope: expected 'image' or 'gpu' because {name} cannot rank across "
                "processes, got 'global'"
            )
        if branch is not None and not classification.takes_branch:
            raise ValueError(
                f"branch: expected None because {name} trains the order of the scores itself, got "
                f"{type(branch).__name__}"
            )
        if branch is not None and rank_scope == "global":
            raise ValueError(
                "rank_scope: expected 'image' or 'gpu' because the branch loss is averaged per "
                "process, got 'global'"
            )
        self.classification = classification
        self.localization = nn.ModuleList(_list_tasks(localization))
        self.instance_weight = instance_weight or ScoreWeight()
        self.balance = balance or ValueBalance()
        self.normalizer = normalizer
        self.branch_loss = branch
        self.rank_scope = rank_scope

    @property
    def criteria(self) -> list[Criterion]:
        """A list with this criterion only."""
        return [self]

    @property
    def tasks(self) -> list[Localization]:
        """The localization tasks."""
        return list(self.localization)  # type: ignore[arg-type]

    def forward(self, candidates: Candidates) -> CriterionOutput:
        """Compute the losses of one step.

        Args:
            candidates: the candidates of one step: R rows of logits, and the boxes or masks of the
                P positives.

        Returns:
            The losses: the parts of the classification loss, ``loss_box`` and ``loss_mask`` of the
            tasks, and ``loss_branch`` with a branch. Without positives, they are zeros attached to
            the graph, except the classification loss of baselines such as focal loss, which is
            computed from the negatives. The output also has the instance weights and the metrics.

        Raises:
            ValueError: the candidates lack a field that the criterion needs, or have the outputs of
                a branch that it does not train.
        """
        branch_logits = candidates.branch_logits
        is_valid = (self.branch is None) == (branch_logits is None)
        expected = "None because the criterion has no branch" if self.branch is None else "a tensor"
        check_that(is_valid, "candidates.branch_logits", expected, branch_logits)
        group = workers_of(self.rank_scope)
        if group is not None:
            candidates = replace(candidates, group=group)
        weights = self.instance_weight(candidates)
        losses, localization_losses = self._losses(candidates, weights)
        task_loss = torch.stack(list(losses.values())).sum()
        metrics = _metrics(candidates)
        for task, loss in zip(self.tasks, localization_losses, strict=True):
            balance = self.balance if task.balance is None else task.balance
            factor = balance(task_loss, loss, candidates, task.outputs(candidates)).detach()
            losses[task.loss_name] = task.weight * factor * loss
            if task.loss_name == "loss_box":
                metrics["box_balance"] = factor
        if self.branch is not None:
            losses["loss_branch"] = self.branch(candidates, self._normalizer_group())
        losses = {name: undo_average(loss, group) for name, loss in losses.items()}
        return CriterionOutput(losses, weights, task_loss.detach(), metrics)

    def _losses(
        self, candidates: Candidates, weights: Tensor
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return the parts of the classification loss, and each task's loss before balancing."""
        losses = self._classify(candidates)
        if self.normalizer is None:
            return losses, [self._mean(task, candidates, weights) for task in self.tasks]
        count = self.normalizer(candidates)
        losses = {name: loss / count for name, loss in losses.items()}
        # Divide by the mean weight times the normalizer's count. If the count is the number of
        # positives, the divisor is the sum of the weights, and the result is the weighted mean.
        total = weights.sum()
        sums = torch.stack([total, torch.full_like(total, len(weights))])
        total, positives = mean_over_workers(sums, self._normalizer_group())
        divisor = total / positives.clamp(min=1) * count
        divisor = torch.where(divisor < constants.WEIGHTS_EPSILON, 1.0, divisor)
        return losses, [
            (weights * task(candidates)).sum() / divisor
            if task.balance is None
            else self._mean(task, candidates, weights)
            for task in self.tasks
        ]

    def _classify(self, candidates: Candidates) -> dict[str, Tensor]:
        """Call the classification loss within the ``rank_scope``."""
        per_image = self.rank_scope == "image"
        classify = self.classification.over_images if per_image else self.classification
        return classify(candidates)

    def _mean(self, task: Localization, candidates: Candidates, weights: Tensor) -> Tensor:
        """Return the weighted mean error of a task over all workers that share the ranking."""
        weights = task.instance_weights(candidates, weights)
        return weighted_mean(task(candidates), weights, candidates.group)

    def _normalizer_group(self) -> dist.ProcessGroup | None:
        return None if self.normalizer is None else workers_of(self.normalizer.scope)


def _list_tasks(
    localization: Localization | Sequence[Localization] | None,
) -> Sequence[Localization]:
    tasks = localization or [GIoU()]
    tasks = tasks if isinstance(tasks, Sequence) else [tasks]
    names = [task.loss_name for task in tasks if isinstance(task, Localization)]
    if len(names) < len(tasks) or len(set(names)) < len(names):
        raise ValueError(
            "localization: expected a Localization, or several with losses of different names, got "
            + ", ".join(type(task).__name__ for task in tasks)
        )
    return tasks


class ALRPCriterion(Criterion):
    """Criterion of aLRP Loss (Oksuz et al., NeurIPS 2020): ranking and localization in one error.

    See :func:`ranking_det.losses.alrp_loss`. The box loss is not a weighted mean of the box errors:
    the ranking determines it.

    Args:
        balance: the task balance, such as :class:`ranking_det.criteria.HistoryBalance` with the
            number of steps of an epoch as its period, as in the paper.
        delta: half-width of the smoothed step, in logits, >= 0.
        tau: IoU above which a box counts as a true positive, in [0, 1): the threshold of the
            assignment, 0.5 (0.7 in an RPN). The localization error is the error of the task,
            divided by 2 (1 - tau).
        localization: a task on boxes with errors in [0, 2], or a list that starts with such a task
            and continues with tasks on masks, which are weighted by the score. For detectors
            without boxes :class:`ranking_det.criteria.MaskDice`, whose errors are at most 1. None
            for :class:`ranking_det.criteria.GIoU`.
        rank_scope: the entries that are ranked together; see :class:`Criterion`.

    Raises:
        ValueError: an argument is out of range, or the parts do not fit together.
    """

    def __init__(
        self,
        *,
        balance: nn.Module,
        delta: float = 1.0,
        tau: float = 0.5,
        localization: Localization | Sequence[Localization] | None = None,
        rank_scope: str = "gpu",
    ) -> None:
        tasks = _list_tasks(localization)
        super().__init__(
            classification=ALRP(tasks[0], delta, tau),
            localization=tasks,
            balance=balance,
            rank_scope=rank_scope,
        )
        self.tau = tau

    def _losses(
        self, candidates: Candidates, weights: Tensor
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        losses = self._classify(candidates)
        mask_losses = [self._mean(task, candidates, weights) for task in self.tasks[1:]]
        return {"loss_cls": losses["loss_cls"]}, [losses["loss_box"], *mask_losses]


def _metrics(candidates: Candidates) -> dict[str, Tensor]:
    """Count positives per image and negatives per positive (Oksuz et al., ICCV 2021, S3.5)."""
    count = len(candidates.positives)
    entries = (candidates.labels != IGNORE).sum() * candidates.logits.shape[1]
    metrics = {
        "num_positives": torch.full_like(entries, count) / max(candidates.num_images, 1),
        "negatives_per_positive": (entries - count) / max(count, 1),
    }
    if candidates.boxes is not None:
        metrics["mean_iou"] = candidates.overlap.sum() / max(count, 1)
    elif candidates.masks is not None:
        metrics["mean_dice"] = candidates.overlap.sum() / max(count, 1)
    return metrics
