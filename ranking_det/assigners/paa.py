"""PAA: probabilistic anchor assignment, with the costs of PAA and of PAA*.

Shapes: n competing anchors and G objects in the whole batch.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from ranking_det.assigners.assignment import Predictions
from ranking_det.assigners.cost_mixture import Competitors, CostMixture, Fallback
from ranking_det.assigners.max_iou import LowQuality
from ranking_det.boxes import box_giou, box_iou
from ranking_det.checks import check_at_least, check_choice
from ranking_det.row_blocks import blocks

Scores = Literal["both", "classification", "localization"]


class PAA(CostMixture):
    """Assign anchors by their training loss (PAA: Kim and Lee, ECCV 2020).

    The cost of an anchor is its focal loss, summed over the classes with the object's class as
    target, plus ``box_weight`` times the GIoU loss of its predicted box. :class:`CostMixture`
    splits the anchors of an object by their costs.

    The defaults follow the paper's code. RS-PAA (Oksuz et al., ICCV 2021) uses
    ``single_candidate="none"``, ``low_quality="object"``, ``empty_component="none"`` and
    ``reg_covar=1e-5``.

    Args:
        box_weight: weight of the GIoU loss, >= 0.
        **mixture: the arguments of :class:`CostMixture`.

    Raises:
        ValueError: an argument is out of range.
    """

    ALPHA, GAMMA = 0.25, 2

    def __init__(self, *, box_weight: float = 1.0, **mixture: Any) -> None:
        super().__init__(**mixture)
        check_at_least("box_weight", box_weight, 0.0)
        self.box_weight = box_weight

    def costs(self, predictions: Predictions, competitors: Competitors) -> Tensor:
        """Compute the cost of assigning each competing anchor to its object.

        Args:
            predictions: the predictions for all R candidates.
            competitors: the n anchors that compete for an object.

        Returns:
            (n,) float32 or better, >= 0.
        """
        rows, objects, boxes, classes = competitors
        targets = classes[objects][:, None]
        logits = predictions.logits
        parts = blocks(len(rows), logits.shape[1])
        focal = torch.cat([self._focal(logits[rows[part]], targets[part]) for part in parts])
        overlap = box_giou(predictions.boxes[rows], boxes[objects])
        return focal + self.box_weight * (1 - overlap)

    def _focal(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the focal loss (n,) of logits (n, K) with one positive class per row (n, 1)."""
        logits = _at_least_float32(logits)
        negated = -logits.gather(1, targets)
        positive_loss = (
            negated.sigmoid().pow(self.GAMMA) * functional.softplus(negated) * self.ALPHA
        )
        loss = logits.sigmoid().pow_(self.GAMMA).mul_(functional.softplus(logits))
        return loss.mul_(1 - self.ALPHA).scatter_(1, targets, positive_loss).sum(dim=1)


class NormalizedPAA(CostMixture):
    """Assign anchors by normalized scores (PAA* of APE Loss: Xu et al., CVPR 2022).

    The scores of an anchor are the sigmoid of the object's class and the IoU of the predicted box
    with the object. Each score is min-max normalized to [0, 1] over the anchors of all levels that
    compete for the object; if all scores are equal, they become 0. The cost of an anchor is the sum
    of 1 - score. :class:`CostMixture` splits the anchors of an object by their costs.

    Args:
        scores: "both", or only the "classification" or "localization" score.
        normalize: whether to normalize the scores.
        single_candidate: see :class:`CostMixture`.
        low_quality: see :class:`CostMixture`.
        empty_component: see :class:`CostMixture`.
        **mixture: the other arguments of :class:`CostMixture`.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        scores: Scores = "both",
        normalize: bool = True,
        single_candidate: Fallback = "none",
        low_quality: LowQuality = "object",
        empty_component: Fallback = "none",
        **mixture: Any,
    ) -> None:
        super().__init__(
            single_candidate=single_candidate,
            low_quality=low_quality,
            empty_component=empty_component,
            **mixture,
        )
        check_choice("scores", scores, ("both", "classification", "localization"))
        self.scores = scores
        self.normalize = normalize

    def costs(self, predictions: Predictions, competitors: Competitors) -> Tensor:
        """Compute the cost of assigning each competing anchor to its object.

        Args:
            predictions: the predictions for all R candidates.
            competitors: the n anchors that compete for an object.

        Returns:
            (n,) float32 or better; infinite for an anchor with a non-finite score.
        """
        rows, objects, boxes, classes = competitors
        scores = []
        if self.scores != "localization":
            scores.append(_at_least_float32(predictions.logits[rows, classes[objects]]).sigmoid())
        if self.scores != "classification":
            scores.append(box_iou(predictions.boxes[rows], boxes[objects]))
        # An anchor that does not compete must not affect the normalization of the others.
        competes = torch.stack([score.isfinite() for score in scores]).all(dim=0)
        if self.normalize:
            scores = [_min_max_normalize(score, competes, objects, len(boxes)) for score in scores]
        cost = torch.stack([1 - score for score in scores]).sum(dim=0)
        return cost.masked_fill(~competes, torch.inf)


def _min_max_normalize(
    scores: Tensor, competes: Tensor, objects: Tensor, num_objects: int
) -> Tensor:
    """Min-max normalize scores (n,) over the anchors of an object; 0 if all are equal."""
    limits = scores.new_full((2, num_objects), torch.inf)
    for limit, signed in zip(limits, (scores, -scores), strict=True):
        limit.scatter_reduce_(0, objects, signed.masked_fill(~competes, torch.inf), "amin")
    low, high = limits[0][objects], -limits[1][objects]
    width = high - low
    return torch.where(width > 0, (scores - low) / width, 0.0)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
