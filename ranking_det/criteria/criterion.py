"""The criterion: a classification loss, localisation tasks, instance weights and a balance."""

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
    """Base class: what a model calls to get its losses, and what it must know of it."""

    def forward(self, candidates: Candidates) -> CriterionOutput:
        """Compute the losses of one step."""
        raise NotImplementedError

    @property
    def criteria(self) -> list[Criterion]:
        """The criteria that it consists of."""
        raise NotImplementedError

    @property
    def tasks(self) -> list[Localization]:
        """The localisation tasks of all its criteria."""
        return [task for criterion in self.criteria for task in criterion.tasks]

    @property
    def branch(self) -> BranchLoss | None:
        """The loss of the head's IoU or centreness branch; None for a head without one."""
        return self.criteria[0].branch_loss

    @property
    def softmax(self) -> bool:
        """Whether the scores are a softmax over the classes, and not a sigmoid of each class.

        Raises:
            ValueError: they are in some of its criteria only.
        """
        kinds = {criterion.classification.softmax for criterion in self.criteria}
        if len(kinds) > 1:
            raise ValueError("criterion: expected either softmax or sigmoid in all its stages")
        return kinds.pop()

    @property
    def uses_continuous_labels(self) -> bool:
        """Whether the candidates' continuous labels count."""
        return all(one.classification.uses_continuous_labels for one in self.criteria)

    @property
    def coder_weights(self) -> list[tuple[float, ...]]:
        """The weights of the box coder that each loss on encoded boxes is for."""
        return [task.coder_weights for task in self.tasks if task.coder_weights is not None]


class Criterion(CriterionBase):
    """Compose a classification or ranking loss and localisation tasks into one objective.

    The defaults around the classification loss are those of Rank & Sort Loss (Oksuz et al., ICCV
    2021): GIoU, weighted by score, averaged by the weights (supplement, eq. S18), times the ratio
    of the two losses' values.

    Args:
        classification: such as :class:`ranking_det.criteria.RankSort`.
        localization: a task on boxes or on masks, or several with losses of different names; see
            :mod:`ranking_det.criteria.localization`.
        instance_weight: see :mod:`ranking_det.criteria.instance_weights`.
        balance: of the tasks that have none of their own, which those on masks have; see
            :mod:`ranking_det.criteria.balance`.
        normalizer: ``(candidates) -> scalar`` that divides the classification loss, for those that
            are sums; a ranking loss normalises itself. With one, the box loss is the weighted sum
            of the errors over this scalar times the mean weight; see
            :mod:`ranking_det.criteria.normalizers`.
        branch: the loss of the head's IoU or centreness branch, if it has one. Not for losses that
            put the scores in order themselves: what inference ranks must be what was trained.
        rank_scope: what is ranked together. "gpu", as in the papers, all images of this process;
            "image", each image alone, mean over the images with a positive; "global", the images
            of all processes: losses and gradients, once DistributedDataParallel has averaged them,
            are those of one process with all the images.
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
        right = isinstance(classification, Classification)
        check_that(right, "classification", "a Classification", classification)
        if classification.is_sum and not isinstance(normalizer, Normalizer):
            raise ValueError(
                f"normalizer: {name} is a sum and needs one, such as PositiveCount, got "
                f"{normalizer!r}"
            )
        if not classification.is_sum and normalizer is not None:
            raise ValueError(f"normalizer: {name} normalises itself and takes none")
        if classification.is_sum and rank_scope != "gpu":
            raise ValueError(f"rank_scope: {name} ranks nothing, got {rank_scope!r}")
        if rank_scope == "global" and not classification.across_workers:
            raise ValueError(f"rank_scope: {name} cannot rank across processes, got 'global'")
        if branch is not None and not classification.takes_branch:
            raise ValueError(f"branch: {name} orders the scores itself and takes none")
        if branch is not None and rank_scope == "global":
            raise ValueError("rank_scope: a branch is averaged per process, got 'global'")
        self.classification = classification
        self.localization = nn.ModuleList(_list_tasks(localization))
        self.instance_weight = instance_weight or ScoreWeight()
        self.balance = balance or ValueBalance()
        self.normalizer = normalizer
        self.branch_loss = branch
        self.rank_scope = rank_scope

    @property
    def criteria(self) -> list[Criterion]:
        """This one."""
        return [self]

    @property
    def tasks(self) -> list[Localization]:
        """The localisation tasks."""
        return list(self.localization)  # type: ignore[arg-type]

    def forward(self, candidates: Candidates) -> CriterionOutput:
        """Compute the losses of one step.

        Args:
            candidates: R rows of logits, and the boxes or masks of the P positives.

        Returns:
            The classification loss's parts, ``loss_box`` and ``loss_mask`` of the tasks, and
            ``loss_branch`` if there is a branch. Without a positive those that rank, and those of
            tasks and branch, are zeros that are attached to the graph.

        Raises:
            ValueError: the candidates lack what the criterion needs, or have a branch that it does
                not train.
        """
        branch_logits = candidates.branch_logits
        right = (self.branch is None) == (branch_logits is None)
        expected = "None, as the criterion has no branch" if self.branch is None else "a tensor"
        check_that(right, "candidates.branch_logits", expected, branch_logits)
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
        """The classification loss's parts, and the loss of each task before its balance."""
        losses = self._classify(candidates)
        if self.normalizer is None:
            return losses, [self._mean(task, candidates, weights) for task in self.tasks]
        count = self.normalizer(candidates)
        losses = {name: loss / count for name, loss in losses.items()}
        # A mean by weights for a count that is that of the positives: the mean weight times it.
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
        """Call the classification loss on what is ranked together."""
        per_image = self.rank_scope == "image"
        classify = self.classification.over_images if per_image else self.classification
        return classify(candidates)

    def _mean(self, task: Localization, candidates: Candidates, weights: Tensor) -> Tensor:
        """The mean error of a task by its weights, over all workers that share one ranking."""
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
    """aLRP Loss (Oksuz et al., NeurIPS 2020): one error for ranking and localisation.

    See :func:`ranking_det.losses.alrp_loss`. The box loss is not a weighted mean of its errors, but
    follows from the ranking.

    Args:
        balance: such as :class:`ranking_det.criteria.HistoryBalance`, the paper's, whose period is
            the number of steps of an epoch.
        delta: half-width of the smoothed step, in logits, >= 0.
        tau: IoU above which a box counts as a true positive, in [0, 1): the threshold of the
            assignment, .5 (.7 in an RPN). The localisation error is GIoU loss / (2 (1 - tau)).
        localization: a task on boxes with errors in [0, 2]; further tasks, on masks, may follow it.
        instance_weight: for further tasks only; see :mod:`ranking_det.criteria.instance_weights`.
        rank_scope: see :class:`Criterion`.
    """

    def __init__(
        self,
        *,
        balance: nn.Module,
        delta: float = 1.0,
        tau: float = 0.5,
        localization: Localization | Sequence[Localization] | None = None,
        instance_weight: nn.Module | None = None,
        rank_scope: str = "gpu",
    ) -> None:
        tasks = _list_tasks(localization)
        super().__init__(
            classification=ALRP(tasks[0], delta, tau),
            localization=tasks,
            instance_weight=instance_weight,
            balance=balance,
            rank_scope=rank_scope,
        )
        self.tau = tau

    def _losses(
        self, candidates: Candidates, weights: Tensor
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        losses = self._classify(candidates)
        further = [self._mean(task, candidates, weights) for task in self.tasks[1:]]
        return {"loss_cls": losses["loss_cls"]}, [losses["loss_box"], *further]


def _metrics(candidates: Candidates) -> dict[str, Tensor]:
    """Counts per image, and the imbalance in entries (Oksuz et al., section S3.5)."""
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
