"""RankDetNet's three losses as one component of a criterion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ranking_det.boxes import box_iou
from ranking_det.checks import check_at_least, check_integer
from ranking_det.criteria.candidates import Matches
from ranking_det.criteria.classification import Classification
from ranking_det.labels import IGNORE
from ranking_det.losses.iou_guided import iou_guided_ranking_loss, rank_by_iou
from ranking_det.losses.rankdetnet import Ranking, class_specific_ranking_loss, rank_classes


class RankDet(Classification):
    """The global, class-specific and IoU-guided losses of RankDetNet (Liu et al., CVPR 2021).

    See :func:`ranking_det.losses.global_ranking_loss`, ``class_specific_ranking_loss`` and
    ``iou_guided_ranking_loss``. The paper does not say how the losses of images are combined; take
    ``rank_scope="image"`` in the criterion for the mean over images with a positive. All images and
    classes are ranked at once: the host waits for a GPU three times, whatever their number.

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
        iou_reduction: of the IoU-guided loss over classes and levels, "sum" or "mean".
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
        iou_reduction: str = "sum",
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
        self._over_all = Ranking(negatives, ratio, global_groups, distance, reweight)
        self._within_classes = Ranking(negatives, ratio, class_groups, distance, reweight)
        self.alpha = alpha
        self.iou_gradient = iou_gradient
        self.iou_reduction = iou_reduction
        self.merge_levels = merge_levels
        self.probabilities = probabilities
        # The loss functions check the other options, on nothing to rank.
        nothing, none = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
        class_specific_ranking_loss(torch.zeros(0, 1), none, **self._within_classes._asdict())
        options: dict[str, Any] = dict(
            alpha=alpha, iou_gradient=iou_gradient, reduction=iou_reduction
        )
        iou_guided_ranking_loss(nothing, nothing, none, **options)

    def forward(self, matches: Matches) -> dict[str, Tensor]:
        """Return ``loss_global``, ``loss_class`` and ``loss_iou``, those with a weight."""
        image = torch.zeros_like(matches.candidates.image)
        together = replace(matches.candidates, image=image, num_images=1)
        return self.over_images(matches._replace(candidates=together))

    def over_images(self, matches: Matches) -> dict[str, Tensor]:
        """Return the same scalars of each image alone, the mean over images with a positive."""
        labels, rows, candidates = matches.labels, matches.rows, matches.candidates
        scores = self._scores(matches)
        own = scores[rows, labels[rows]]
        losses = {}
        if self.global_weight:
            losses["loss_global"] = self.global_weight * self._global(matches, scores, own)
        if self.class_weight:
            loss = rank_classes(
                scores, labels, rows, candidates.image, candidates.num_images, self._within_classes
            )
            losses["loss_class"] = self.class_weight * loss
        if self.iou_weight:
            losses["loss_iou"] = self.iou_weight * self._iou_guided(matches, own)
        # At least 1; images are in order.
        count = (candidates.image[rows].diff() != 0).sum() + 1
        return {name: loss / count for name, loss in losses.items()}

    def _scores(self, matches: Matches) -> Tensor:
        """What is ranked, (R, K); -inf in ignored rows, and where the logits are."""
        logits = matches.candidates.logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        absent = (matches.labels == IGNORE)[:, None] | (logits == -torch.inf)
        # A positive takes part whatever its logit: as a probability, -inf is 0.
        absent[matches.rows, matches.labels[matches.rows]] = False
        logits = logits.masked_fill(absent, -torch.inf)
        return logits.sigmoid().masked_fill(absent, -torch.inf) if self.probabilities else logits

    def _global(self, matches: Matches, scores: Tensor, own: Tensor) -> Tensor:
        """The class-specific loss of one class, which all objects are of."""
        rows, candidates = matches.rows, matches.candidates
        objectness = scores.amax(dim=1).index_copy(0, rows, own)[:, None]
        labels = matches.labels.clamp(max=0)
        return rank_classes(
            objectness, labels, rows, candidates.image, candidates.num_images, self._over_all
        )

    def _iou_guided(self, matches: Matches, scores: Tensor) -> Tensor:
        rows, candidates = matches.rows, matches.candidates
        images, num_classes = candidates.image[rows], candidates.logits.shape[1]
        groups = images * num_classes + matches.labels[rows]
        if not self.merge_levels:
            groups = groups + candidates.num_images * num_classes * candidates.level[rows]
        ious = box_iou(candidates.boxes, candidates.gt_boxes).to(scores.dtype)
        return rank_by_iou(
            scores,
            ious,
            groups,
            images if self.iou_reduction == "mean" else None,
            candidates.num_images,
            self.alpha,
            self.iou_gradient,
        )
