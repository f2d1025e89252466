"""The criterion: a classification loss, a box loss, instance weights and a balance, composed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ranking_det.boxes import box_iou
from ranking_det.labels import IGNORE
from ranking_det.losses.balance import ValueBalance
from ranking_det.losses.localization import GIoU
from ranking_det.losses.candidates import Candidates, CriterionOutput
from ranking_det.losses.validation import looks_at_values
from ranking_det.losses.weights import ScoreWeight


class Criterion(nn.Module):
    """Compose a classification or ranking loss and a localisation loss into one objective.

    The defaults around the classification loss are those of Rank & Sort Loss (Oksuz et al., ICCV
    2021): GIoU, weighted by score, averaged by the weights (supplement, eq. S18), times the ratio
    of the two losses' values.

    Args:
        classification: ``(candidates, labels, quality) -> dict of scalars``; see
            :mod:`ranking_det.losses.classification`.
        localization: ``(candidates) -> (P,)`` errors; see :mod:`ranking_det.losses.localization`.
        instance_weight: ``(candidates, rows, quality) -> (P,)``; see
            :mod:`ranking_det.losses.weights`.
        balance: ``(task_loss, box_loss) -> scalar``; see :mod:`ranking_det.losses.balance`.
        normalizer: ``(num_positives) -> scalar`` that divides the classification loss and the
            weighted sum of box errors, for classification losses that are sums. By default the
            classification loss is left as it is and the box loss is the weighted mean.
    """

    def __init__(
        self,
        *,
        classification: nn.Module,
        localization: nn.Module | None = None,
        instance_weight: nn.Module | None = None,
        balance: nn.Module | None = None,
        normalizer: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.classification = classification
        self.localization = localization or GIoU()
        self.instance_weight = instance_weight or ScoreWeight()
        self.balance = balance or ValueBalance()
        self.normalizer = normalizer

    def forward(self, candidates: Candidates, labels: Tensor) -> CriterionOutput:
        """Compute the losses of one step.

        Args:
            candidates: R rows of logits, and the boxes of the P positives.
            labels: (R,) int64; a class 0..K-1 is a positive, BACKGROUND or IGNORE is not.

        Returns:
            The classification loss's parts and ``loss_box``. Without a positive all are zeros that
            are attached to the graph.

        Raises:
            ValueError: labels do not fit the candidates.
        """
        rows = self._positive_rows(candidates, labels)
        with torch.no_grad():
            # A diverged box has no IoU; its box loss is NaN and tells.
            quality = box_iou(candidates.boxes, candidates.gt_boxes).nan_to_num(0).clamp(0, 1)
        losses = self.classification(candidates, labels, quality)
        weights = self.instance_weight(candidates, rows, quality)
        box_loss = (weights * self.localization(candidates)).sum()
        if self.normalizer is None:
            total = weights.sum()
            box_loss = box_loss / torch.where(total < 1e-10, torch.ones_like(total), total)
        else:
            count = self.normalizer(len(rows))
            losses = {name: loss / count for name, loss in losses.items()}
            box_loss = box_loss / count
        task_loss = torch.stack([loss.detach() for loss in losses.values()]).sum()
        factor = self.balance(task_loss, box_loss.detach())
        metrics = self._metrics(candidates, labels, quality) | {"box_balance": factor}
        losses["loss_box"] = factor * box_loss
        return CriterionOutput(losses, weights, task_loss, metrics)

    @staticmethod
    def _positive_rows(candidates: Candidates, labels: Tensor) -> Tensor:
        if labels.shape != candidates.logits.shape[:1]:
            raise ValueError(
                f"labels must have shape ({len(candidates.logits)},) as logits have rows, "
                f"got {tuple(labels.shape)}"
            )
        rows = torch.nonzero(labels >= 0).squeeze(1)
        if len(rows) != len(candidates.boxes):
            raise ValueError(
                f"candidates must hold one box per positive label, got {len(candidates.boxes)} "
                f"boxes and {len(rows)} positives"
            )
        num_classes = candidates.logits.shape[1]
        if looks_at_values(labels) and len(rows) and int(labels.max()) >= num_classes:
            raise ValueError(
                f"labels must be below the {num_classes} classes of the logits, got "
                f"{int(labels.max())}"
            )
        return rows

    @staticmethod
    def _metrics(candidates: Candidates, labels: Tensor, quality: Tensor) -> dict[str, Tensor]:
        """Counts per image, and the imbalance in entries (Oksuz et al., section S3.5)."""
        positives = (labels >= 0).sum()
        entries = (labels != IGNORE).sum() * candidates.logits.shape[1]
        return {
            "num_positives": positives / max(candidates.num_images, 1),
            "negatives_per_positive": (entries - positives) / positives.clamp(min=1),
            "mean_iou": quality.sum() / positives.clamp(min=1),
        }
