"""RankDetNet's three losses as one component of a criterion."""

from __future__ import annotations

import torch
from torch import Tensor

from ranking_det.boxes import box_iou
from ranking_det.checks import check_at_least
from ranking_det.criteria.candidates import Candidates
from ranking_det.criteria.classification import Classification
from ranking_det.labels import IGNORE
from ranking_det.losses.rankdetnet import Ranking, iou_guided_ranking_loss, rank_classes


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
        super().__init__(locals())
        for name in ("global_weight", "class_weight", "iou_weight"):
            check_at_least(name, self.options[name], 0.0)
        if not (global_weight or class_weight or iou_weight):
            raise ValueError("global_weight, class_weight and iou_weight: all are 0")

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Return ``loss_global``, ``loss_class`` and ``loss_iou``, those with a weight."""
        return self._rank(candidates, torch.zeros_like(candidates.image), 1)

    def over_images(self, candidates: Candidates) -> dict[str, Tensor]:
        """Return the same scalars of each image alone, the mean over images with a positive."""
        return self._rank(candidates, candidates.image, candidates.num_images)

    def _rank(self, candidates: Candidates, image: Tensor, num_images: int) -> dict[str, Tensor]:
        """Rank the rows of each image (R,) of so many, and take the mean."""
        labels, rows = candidates.labels, candidates.positives
        scores = self._scores(candidates)
        class_scores = scores[rows, labels[rows]]
        losses = {}
        if self.global_weight:
            # The class-specific loss of one class, which all objects are of.
            objectness = scores.amax(dim=1).index_copy(0, rows, class_scores)[:, None]
            loss = rank_classes(
                objectness, labels.clamp(max=0), rows, image, num_images, self._over_all
            )
            losses["loss_global"] = self.global_weight * loss
        if self.class_weight:
            loss = rank_classes(scores, labels, rows, image, num_images, self._within_classes)
            losses["loss_class"] = self.class_weight * loss
        if self.iou_weight:
            loss = self._iou_guided(candidates, class_scores, image[rows])
            losses["loss_iou"] = self.iou_weight * loss
        # At least 1; images are in order.
        count = (image[rows].diff() != 0).sum() + 1
        return {name: loss / count for name, loss in losses.items()}

    def _scores(self, candidates: Candidates) -> Tensor:
        """What is ranked, (R, K); -inf in ignored rows, and where the logits are."""
        logits, labels, rows = candidates.logits, candidates.labels, candidates.positives
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        absent = (labels == IGNORE)[:, None] | (logits == -torch.inf)
        # A positive takes part whatever its logit: as a probability, -inf is 0.
        absent[rows, labels[rows]] = False
        logits = logits.masked_fill(absent, -torch.inf)
        return logits.sigmoid().masked_fill(absent, -torch.inf) if self.probabilities else logits

    def _iou_guided(self, candidates: Candidates, scores: Tensor, images: Tensor) -> Tensor:
        rows, num_classes = candidates.positives, candidates.logits.shape[1]
        groups = images * num_classes + candidates.labels[rows]
        if not self.merge_levels:
            groups = groups + candidates.num_images * num_classes * candidates.level[rows]
        boxes = candidates.box_targets
        ious = box_iou(boxes.boxes, boxes.gt_boxes).to(scores.dtype)
        return iou_guided_ranking_loss(
            scores, ious, groups, alpha=self.alpha, iou_gradient=self.iou_gradient
        )

    @property
    def _over_all(self) -> Ranking:
        return Ranking(self.negatives, self.ratio, self.global_groups, self.distance, self.reweight)

    @property
    def _within_classes(self) -> Ranking:
        return Ranking(self.negatives, self.ratio, self.class_groups, self.distance, self.reweight)
