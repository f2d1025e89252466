"""Probabilistic anchor assignment, with the costs of PAA and of PAA*.

n is the number of anchors that take part, G of objects, both in the whole batch.
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
    """The cost is the training loss of the anchor (Kim and Lee, ECCV 2020).

    Focal loss summed over the classes, with the object's class as target, plus ``box_weight`` times
    the GIoU loss of the predicted box. See :class:`CostMixture` for how the costs are split.

    The defaults are those of the paper's code; RS-PAA (Oksuz et al., ICCV 2021) has
    ``single_candidate="none"``, ``low_quality="object"``, ``empty_component="none"`` and
    ``reg_covar=1e-5``.

    Args:
        box_weight: of the GIoU loss, >= 0.
        mixture: the arguments of :class:`CostMixture`.
    """

    ALPHA, GAMMA = 0.25, 2

    def __init__(self, *, box_weight: float = 1.0, **mixture: Any) -> None:
        super().__init__(**mixture)
        check_at_least("box_weight", box_weight, 0.0)
        self.box_weight = box_weight

    def costs(self, predictions: Predictions, competitors: Competitors) -> Tensor:
        """See :meth:`CostMixture.costs`."""
        rows, objects, boxes, classes = competitors
        targets = classes[objects][:, None]
        logits = predictions.logits
        parts = blocks(len(rows), logits.shape[1])
        focal = torch.cat([self._focal(logits[rows[part]], targets[part]) for part in parts])
        overlap = box_giou(predictions.boxes[rows], boxes[objects])
        return focal + self.box_weight * (1 - overlap)

    def _focal(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Focal loss (n,) of logits (n, K), each row with its one positive class (n, 1)."""
        logits = _at_least_float32(logits)
        against = -logits.gather(1, targets)
        hit = against.sigmoid().pow(self.GAMMA) * functional.softplus(against) * self.ALPHA
        loss = logits.sigmoid().pow_(self.GAMMA).mul_(functional.softplus(logits))
        return loss.mul_(1 - self.ALPHA).scatter_(1, targets, hit).sum(dim=1)


class NormalizedPAA(CostMixture):
    """The cost is what normalised scores lack to 1: PAA* of APE Loss (Xu et al., CVPR 2022).

    The scores are the sigmoid of the object's class and the IoU of the predicted box with the
    object. Each is stretched to [0, 1] over the anchors of all levels that compete for the object;
    scores that are all equal become 0. The cost is the sum of 1 - score. See :class:`CostMixture`
    for how the costs are split.

    Args:
        scores: "both", or the "classification" or "localization" score alone.
        normalize: False to take the scores as they are.
        single_candidate: see :class:`CostMixture`, which takes further arguments.
        low_quality: see there.
        empty_component: see there.
        mixture: its other arguments.
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
        """See :meth:`CostMixture.costs`."""
        rows, objects, boxes, classes = competitors
        scores = []
        if self.scores != "localization":
            scores.append(_at_least_float32(predictions.logits[rows, classes[objects]]).sigmoid())
        if self.scores != "classification":
            scores.append(box_iou(predictions.boxes[rows], boxes[objects]))
        # An anchor that does not compete must not stretch the scores of the others either.
        competes = torch.stack([score.isfinite() for score in scores]).all(dim=0)
        if self.normalize:
            scores = [_stretch(score, competes, objects, len(boxes)) for score in scores]
        cost = torch.stack([1 - score for score in scores]).sum(dim=0)
        return cost.masked_fill(~competes, torch.inf)


def _stretch(scores: Tensor, competes: Tensor, objects: Tensor, num_objects: int) -> Tensor:
    """Scores (n,) on [0, 1] over those of the same object; 0 if they are all equal."""
    limits = scores.new_full((2, num_objects), torch.inf)
    for limit, signed in zip(limits, (scores, -scores), strict=True):
        limit.scatter_reduce_(0, objects, signed.masked_fill(~competes, torch.inf), "amin")
    low, high = limits[0][objects], -limits[1][objects]
    width = high - low
    return torch.where(width > 0, (scores - low) / width, 0.0)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
