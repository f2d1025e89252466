"""The criterion: a classification loss, a box loss, instance weights and a balance, composed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist

from ranking_det.checks import check_choice
from ranking_det.criteria.balance import ValueBalance
from ranking_det.criteria.branch import BranchLoss
from ranking_det.criteria.candidates import Candidates, CriterionOutput, Matches, check_rows
from ranking_det.criteria.classification import Classification
from ranking_det.criteria.localization import GIoU
from ranking_det.criteria.normalizers import Normalizer
from ranking_det.criteria.weights import ScoreWeight
from ranking_det.labels import IGNORE
from ranking_det.losses.alrp import alrp_loss
from ranking_det.losses.kernels.collectives import (
    mean_over_workers,
    undo_average,
    weighted_mean,
    workers_of,
)
from ranking_det.losses.validation import check_labels


class Criterion(nn.Module):
    """Compose a classification or ranking loss and a localisation loss into one objective.

    The defaults around the classification loss are those of Rank & Sort Loss (Oksuz et al., ICCV
    2021): GIoU, weighted by score, averaged by the weights (supplement, eq. S18), times the ratio
    of the two losses' values.

    Args:
        classification: such as :class:`ranking_det.criteria.RankSort`.
        localization: ``(candidates) -> (P,)`` errors; see :mod:`ranking_det.criteria.localization`.
        instance_weight: see :mod:`ranking_det.criteria.weights`.
        balance: see :mod:`ranking_det.criteria.balance`.
        normalizer: ``(matches) -> scalar`` that divides the classification loss, for those that
            are sums; a ranking loss normalises itself. With one, the box loss is the weighted sum
            of the errors over this scalar times the mean weight; see
            :mod:`ranking_det.criteria.normalizers`.
        branch: the loss of the head's IoU or centreness branch, if it has one. Not for losses that
            put the scores in order themselves: what the test ranks must be what was trained.
        rank_scope: what is ranked together. "gpu", as in the papers, all images of this process;
            "image", each image alone, mean over the images with a positive; "global", the images
            of all processes: losses and gradients, once DistributedDataParallel has averaged them,
            are those of one process with all the images.
    """

    def __init__(
        self,
        *,
        classification: Classification,
        localization: nn.Module | None = None,
        instance_weight: nn.Module | None = None,
        balance: nn.Module | None = None,
        normalizer: Normalizer | None = None,
        branch: BranchLoss | None = None,
        rank_scope: str = "gpu",
    ) -> None:
        super().__init__()
        check_choice("rank_scope", rank_scope, ("image", "gpu", "global"))
        name = type(classification).__name__
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
        self.localization = localization or GIoU()
        self.instance_weight = instance_weight or ScoreWeight()
        self.balance = balance or ValueBalance()
        self.normalizer = normalizer
        self.branch = branch
        self.rank_scope = rank_scope

    def forward(self, candidates: Candidates, labels: Tensor) -> CriterionOutput:
        """Compute the losses of one step.

        Args:
            candidates: R rows of logits, and the boxes of the P positives.
            labels: (R,) int64; a class 0..K-1 is a positive, BACKGROUND or IGNORE is not.

        Returns:
            The classification loss's parts, ``loss_box``, and ``loss_branch`` if there is a branch.
            Without a positive those that rank, and those of boxes and branch, are zeros that are
            attached to the graph.

        Raises:
            ValueError: labels do not fit the candidates.
        """
        matches = self._match(candidates, labels)
        weights = self.instance_weight(matches)
        losses, box_loss = self._losses(matches, weights)
        task_loss = torch.stack(list(losses.values())).sum()
        factor = self.balance(task_loss, box_loss, matches).detach()
        losses["loss_box"] = factor * box_loss
        if self.branch is not None:
            losses["loss_branch"] = self.branch(matches, self._normalizer_group())
        losses = {name: undo_average(loss, matches.group) for name, loss in losses.items()}
        metrics = _metrics(matches) | {"box_balance": factor}
        return CriterionOutput(losses, weights, task_loss.detach(), metrics, matches.group)

    def _match(self, candidates: Candidates, labels: Tensor) -> Matches:
        check_labels("candidates.logits", candidates.logits, labels)
        rows = torch.nonzero(labels >= 0).squeeze(1)
        for name in ("box_outputs", "boxes", "anchors", "gt_boxes"):
            shape = tuple(getattr(candidates, name).shape)
            if shape != (len(rows), 4):
                raise ValueError(
                    f"candidates.{name}: expected one row of 4 for each of the {len(rows)} "
                    f"positive labels, got shape {shape}"
                )
        check_rows(candidates, labels)
        if (self.branch is None) != (candidates.branch_logits is None):
            raise ValueError(
                "candidates.branch_logits: expected "
                + ("None, as the criterion has no branch" if self.branch is None else "a tensor")
            )
        iou, quality = candidates.iou(), candidates.quality
        if quality is not None and (quality.shape != iou.shape or not quality.is_floating_point()):
            raise ValueError(
                f"candidates.quality: expected a float of shape {tuple(iou.shape)}, one entry per "
                f"positive, got {quality.dtype} of shape {tuple(quality.shape)}"
            )
        quality = iou if quality is None else quality.detach().to(iou.dtype)
        return Matches(candidates, labels, rows, iou, quality, workers_of(self.rank_scope))

    def _losses(self, matches: Matches, weights: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The classification loss's parts and the box loss, before the balance."""
        losses = self._over_scope(matches)
        errors = self.localization(matches.candidates)
        if self.normalizer is None:
            # Over all processes if they share one ranking: the mean is over all their positives.
            return losses, weighted_mean(errors, weights, matches.group)
        count = self.normalizer(matches)
        losses = {name: loss / count for name, loss in losses.items()}
        # A mean by weights for a count that is that of the positives: the mean weight times it.
        total = weights.sum()
        sums = torch.stack([total, torch.full_like(total, len(weights))])
        total, positives = mean_over_workers(sums, self._normalizer_group())
        divisor = total / positives.clamp(min=1) * count
        box_loss = (weights * errors).sum() / torch.where(divisor < 1e-10, 1.0, divisor)
        return losses, box_loss

    def _normalizer_group(self) -> dist.ProcessGroup | None:
        return None if self.normalizer is None else workers_of(self.normalizer.scope)

    def _over_scope(self, matches: Matches) -> dict[str, Tensor]:
        """Call the classification loss on what is ranked together."""
        if self.rank_scope == "image":
            return self.classification.over_images(matches)
        losses: dict[str, Tensor] = self.classification(matches)
        return losses


class ALRPCriterion(Criterion):
    """aLRP Loss (Oksuz et al., NeurIPS 2020): one error for ranking and localisation.

    See :func:`ranking_det.losses.alrp_loss`. The localisation loss is not a weighted mean of its
    own, but follows from the ranking.

    Args:
        balance: such as :class:`ranking_det.criteria.HistoryBalance`, the paper's, whose period is
            the number of steps of an epoch.
        delta: half-width of the smoothed step, in logits, >= 0.
        tau: IoU above which a box counts as a true positive, in [0, 1): the threshold of the
            assignment, .5 (.7 in an RPN). The localisation error is GIoU loss / (2 (1 - tau)).
        localization: ``(candidates) -> (P,)`` errors in [0, 2].
        instance_weight: for further heads only; see :mod:`ranking_det.criteria.weights`.
        rank_scope: see :class:`Criterion`.
    """

    def __init__(
        self,
        *,
        balance: nn.Module,
        delta: float = 1.0,
        tau: float = 0.5,
        localization: nn.Module | None = None,
        instance_weight: nn.Module | None = None,
        rank_scope: str = "gpu",
    ) -> None:
        if not 0 <= tau < 1:
            raise ValueError(f"tau: expected a number in [0, 1), got {tau!r}")
        super().__init__(
            classification=_ALRP(delta),
            localization=localization,
            instance_weight=instance_weight,
            balance=balance,
            rank_scope=rank_scope,
        )
        self.tau = tau

    def _losses(self, matches: Matches, weights: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        errors = self.localization(matches.candidates) / (2 * (1 - self.tau))
        # A diverged box makes the loss infinite, which tells; NaN would be refused as an argument.
        errors = errors.nan_to_num(nan=torch.inf, posinf=torch.inf)
        losses = self._over_scope(matches._replace(quality=errors))
        return {"loss_cls": losses["classification"]}, losses["localization"]


class _ALRP(Classification):
    """Takes the localisation errors in the place of the quality, and returns both parts."""

    across_workers = True

    def __init__(self, delta: float) -> None:
        super().__init__()
        self.delta = delta
        nothing = torch.zeros(0)
        alrp_loss(nothing, torch.zeros(0, dtype=torch.int64), nothing, delta=delta)

    def forward(self, matches: Matches) -> dict[str, Tensor]:
        errors, group = matches.quality, matches.group
        return alrp_loss(*matches.entries(), errors, delta=self.delta, group=group)._asdict()


def _metrics(matches: Matches) -> dict[str, Tensor]:
    """Counts per image, and the imbalance in entries (Oksuz et al., section S3.5)."""
    candidates, count = matches.candidates, len(matches.rows)
    entries = (matches.labels != IGNORE).sum() * candidates.logits.shape[1]
    return {
        "num_positives": torch.full_like(entries, count) / max(candidates.num_images, 1),
        "negatives_per_positive": (entries - count) / max(count, 1),
        "mean_iou": matches.iou.sum() / max(count, 1),
    }
