"""RankDetNet's three losses as one component of a criterion."""

from __future__ import annotations

import torch
from torch import Tensor

from ranking_det.boxes import box_iou
from ranking_det.checks import check_at_least, check_integer
from ranking_det.labels import BACKGROUND
from ranking_det.losses.candidates import Matches
from ranking_det.losses.classification import Classification
from ranking_det.losses.iou_guided import iou_guided_ranking_loss
from ranking_det.losses.rankdetnet import (
    class_specific_ranking_loss,
    global_ranking_loss,
    group_negatives,
    hardest_negatives,
)


class RankDet(Classification):
    """The global, class-specific and IoU-guided losses of RankDetNet (Liu et al., CVPR 2021).

    See :func:`ranking_det.losses.global_ranking_loss`, ``class_specific_ranking_loss`` and
    ``iou_guided_ranking_loss``. The paper does not say how the losses of images are combined; take
    ``rank_scope="image"`` in the criterion for the mean over images with a positive.

    Args:
        global_weight: factor of the global loss, >= 0; 0 leaves it out.
        class_weight: factor of the class-specific loss, >= 0; 0 leaves it out.
        iou_weight: factor of the IoU-guided loss, >= 0; 0 leaves it out.
        negatives: "group" or "ohem", how both classification losses mine their negatives.
        ratio: with "ohem", negatives per positive, >= 1.
        global_groups: with "group", groups of the global loss, >= 1.
        class_groups: with "group", groups of each class, >= 1.
        distance: "exp", "sigmoid" or "logistic".
        reweight: weigh pairs by their own loss, as the paper does.
        alpha: sharpness of the IoU-guided loss, > 0.
        iou_gradient: "higher", "both" or "none".
        merge_levels: compare the positives of all levels of a class with each other.
        probabilities: rank sigmoids, in [0, 1]; False ranks logits.
    """

    takes_branch = True

    def __init__(
        self,
        *,
        global_weight: float = 1.0,
        class_weight: float = 1.0,
        iou_weight: float = 1.0,
        negatives: str = "group",
        ratio: int = 3,
        global_groups: int = 15,
        class_groups: int = 3,
        distance: str = "exp",
        reweight: bool = True,
        alpha: float = 1.0,
        iou_gradient: str = "higher",
        merge_levels: bool = False,
        probabilities: bool = True,
    ) -> None:
        super().__init__()
        for name, weight in (
            ("global_weight", global_weight),
            ("class_weight", class_weight),
            ("iou_weight", iou_weight),
        ):
            check_at_least(name, weight, 0.0)
        check_integer("global_groups", global_groups, 1)
        if not (global_weight or class_weight or iou_weight):
            raise ValueError("global_weight, class_weight and iou_weight: all are 0")
        self.global_weight = global_weight
        self.class_weight = class_weight
        self.iou_weight = iou_weight
        self.negatives = negatives
        self.ratio = ratio
        self.global_groups = global_groups
        self.class_groups = class_groups
        self.distance = distance
        self.reweight = reweight
        self.alpha = alpha
        self.iou_gradient = iou_gradient
        self.merge_levels = merge_levels
        self.probabilities = probabilities
        # The loss functions check the other options, on nothing to rank.
        nothing, none = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
        self._class_specific(torch.zeros(0, 1), none)
        iou_guided_ranking_loss(nothing, nothing, none, alpha=alpha, iou_gradient=iou_gradient)

    def forward(self, matches: Matches) -> dict[str, Tensor]:
        """Return ``loss_global``, ``loss_class`` and ``loss_iou``, those with a weight."""
        labels, rows = matches.labels, matches.rows
        logits = matches.candidates.logits.float()
        scores = logits.sigmoid() if self.probabilities else logits
        losses = {}
        if self.global_weight:
            losses["loss_global"] = self.global_weight * self._global(scores, labels, rows)
        if self.class_weight:
            losses["loss_class"] = self.class_weight * self._class_specific(scores, labels)
        if self.iou_weight:
            own = scores[rows, labels[rows]]
            losses["loss_iou"] = self.iou_weight * self._iou_guided(matches, own)
        return losses

    def _global(self, scores: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        background = scores[labels == BACKGROUND].amax(dim=1)
        if self.negatives == "group":
            mined = group_negatives(background, self.global_groups)
        else:
            mined = hardest_negatives(background, self.ratio * len(rows))
        return global_ranking_loss(
            scores[rows, labels[rows]], mined, distance=self.distance, reweight=self.reweight
        )

    def _class_specific(self, scores: Tensor, labels: Tensor) -> Tensor:
        return class_specific_ranking_loss(
            scores,
            labels,
            negatives=self.negatives,
            ratio=self.ratio,
            groups=self.class_groups,
            distance=self.distance,
            reweight=self.reweight,
        )

    def _iou_guided(self, matches: Matches, scores: Tensor) -> Tensor:
        candidates, rows = matches.candidates, matches.rows
        groups = matches.labels[rows]
        if not self.merge_levels:
            groups = groups + candidates.logits.shape[1] * candidates.level[rows]
        ious = box_iou(candidates.boxes, candidates.gt_boxes).to(scores.dtype)
        return iou_guided_ranking_loss(
            scores, ious, groups, alpha=self.alpha, iou_gradient=self.iou_gradient
        )
