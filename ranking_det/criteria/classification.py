"""Classification losses of a criterion: ranking losses, and baselines that do not rank.

Each takes the :class:`Candidates` of a step and returns a dict of scalars. A ranking loss is
already normalized. A baseline (``is_sum``) returns a sum, which the criterion divides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ranking_det.boxes import box_iou
from ranking_det.checks import check_at_least, check_that
from ranking_det.criteria.candidates import BoxTargets, Candidates, MaskTargets, mean_of_positives
from ranking_det.criteria.localization import Localization
from ranking_det.labels import IGNORE
from ranking_det.losses.alrp import alrp_loss
from ranking_det.losses.ap import ap_loss
from ranking_det.losses.ape import ape_loss
from ranking_det.losses.mask_errors import dice_errors
from ranking_det.losses.pointwise import cross_entropy, focal, quality_focal, varifocal
from ranking_det.losses.rank_sort import rank_sort_loss
from ranking_det.losses.rankdetnet import class_specific_ranking_loss, iou_guided_ranking_loss


class Classification(nn.Module):
    """Base class of classification losses.

    Args:
        options: the arguments of the subclass's constructor, as ``locals()`` returns them there.
            Each becomes an attribute. The constructor calls the loss on candidates without rows, so
            that the loss function checks the options. Omit them if the subclass sets its attributes
            itself.

    Raises:
        ValueError: the loss function rejects an option.

    Attributes:
        is_sum: whether the scalars are sums, which the criterion divides.
        across_workers: whether the loss can rank across processes (``candidates.group``).
        takes_branch: whether inference may multiply the scores by the scores of an IoU or
            centerness branch. False if the loss itself trains the order of the scores at inference.
        uses_continuous_labels: whether the loss uses the ``quality`` of the positives.
        softmax: True if the scores are the softmax over the classes and a background of logit 0,
            False if they are one sigmoid per class.
    """

    is_sum = False
    across_workers = False
    takes_branch = False
    uses_continuous_labels = False
    softmax = False

    def __init__(self, options: Mapping[str, Any] = MappingProxyType({})) -> None:
        super().__init__()
        self._names = [name for name in options if name not in ("self", "__class__")]
        for name in self._names:
            setattr(self, name, options[name])
        if options:
            self(_no_candidates())

    if TYPE_CHECKING:  # the options become attributes of any type

        def __getattr__(self, name: str) -> Any: ...

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the loss function, with the current attribute values."""
        return {name: getattr(self, name) for name in self._names}

    def extra_repr(self) -> str:
        """Show the options, such as ``delta=0.5``, when the criterion is printed."""
        options = self.options.items()
        return ", ".join(f"{k}={v!r}" for k, v in options if not isinstance(v, nn.Module))

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Compute the loss.

        Args:
            candidates: the candidates of one step.

        Returns:
            The scalars by name, with gradient.

        Raises:
            NotImplementedError: a subclass must define it.
        """
        raise NotImplementedError

    def over_images(self, candidates: Candidates) -> dict[str, Tensor]:
        """Compute the loss of each image separately and average over images with a positive.

        Args:
            candidates: the candidates of one step.

        Returns:
            The mean of each scalar, by name.
        """
        parts = [part for part in candidates.images() if len(part.positives)] or [candidates]
        losses = [self(part) for part in parts]
        return {name: torch.stack([loss[name] for loss in losses]).mean() for name in losses[0]}


def _no_candidates() -> Candidates:
    rows, boxes = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)
    targets, pixels = BoxTargets(boxes, boxes, boxes, boxes), torch.zeros(0, 1, 1)
    masks = MaskTargets(pixels, pixels, rows)
    return Candidates(torch.zeros(0, 1), rows, rows, rows, rows, 0, boxes=targets, masks=masks)


class RankSort(Classification):
    """Rank & Sort Loss (Oksuz et al., ICCV 2021); see :func:`ranking_det.losses.rank_sort_loss`.

    Args:
        delta: half-width of the smoothed step, in logits, >= 0.
        zero_is_negative: whether a positive with a continuous label of exactly 0 is ranked among
            the negatives, as in the papers' code. Its boxes and masks are trained in any case.

    Raises:
        ValueError: ``delta`` is out of range.
    """

    uses_continuous_labels = True
    across_workers = True

    def __init__(self, delta: float = 0.5, zero_is_negative: bool = False) -> None:
        super().__init__(locals())

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Compute the ranking and the sorting loss.

        Args:
            candidates: the candidates of one step.

        Returns:
            ``loss_rank`` and ``loss_sort``, scalars with gradient.
        """
        (logits, positives), quality = candidates.entries(), candidates.quality
        if self.zero_is_negative:
            is_positive = quality > 0
            positives, quality = positives[is_positive], quality[is_positive]
        losses = rank_sort_loss(
            logits, positives, quality, delta=self.delta, group=candidates.group
        )
        return {"loss_rank": losses.ranking, "loss_sort": losses.sorting}


class AveragePrecision(Classification):
    """AP Loss (Chen et al., CVPR 2019) and variants; see :func:`ranking_det.losses.ap_loss`.

    Args:
        delta: half-width of the smoothed step, in logits, >= 0.
        interpolated: whether to replace the precision at each positive by the highest precision at
            any positive with a lower logit.
        distance: "step", "sigmoid" or "cross_entropy".
        lam: slope of the sigmoid, > 0.
        balance: the divisor of a positive's errors: "rank", its rank among all entries, or
            "negatives", the number of negatives that are not far below it.
        margin: with balance "negatives", count negatives down to this far below the positive, in
            logits, >= 0.
        self_count: what a positive adds to its own rank, > 0.
        max_negatives: keep only the negatives with the highest logits; None for all.

    Raises:
        ValueError: an argument is out of range.
    """

    across_workers = True

    def __init__(
        self,
        delta: float = 1.0,
        interpolated: bool = True,
        distance: str = "step",
        lam: float = 8.0,
        balance: str = "rank",
        margin: float = 0.25,
        self_count: float = 1.0,
        max_negatives: int | None = None,
    ) -> None:
        super().__init__(locals())

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Compute the AP loss.

        Args:
            candidates: the candidates of one step.

        Returns:
            ``loss_cls``, a scalar with gradient.
        """
        loss = ap_loss(*candidates.entries(), group=candidates.group, **self.options)
        return {"loss_cls": loss}


class ALRP(Classification):
    """aLRP Loss (Oksuz et al., NeurIPS 2020); see :func:`ranking_det.losses.alrp_loss`.

    Args:
        localization: a task on boxes with errors in [0, 2], or one on masks with errors in [0, 1].
        delta: half-width of the smoothed step, in logits, >= 0.
        tau: IoU above which a box counts as a true positive, in [0, 1). The localization error is
            the error of the task, divided by 2 (1 - tau).

    Raises:
        ValueError: ``delta`` or ``tau`` is out of range.
    """

    across_workers = True

    def __init__(self, localization: Localization, delta: float = 1.0, tau: float = 0.5) -> None:
        check_that(0 <= tau < 1, "tau", "a number in [0, 1)", tau)
        super().__init__(locals())

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Compute the ranking and the localization loss.

        Args:
            candidates: the candidates of one step.

        Returns:
            ``loss_cls`` and ``loss_box``, scalars with gradient.
        """
        errors = self.localization.of_positives(candidates) / (2 * (1 - self.tau))
        # A NaN error becomes an infinite loss, which stops training with a message that names the
        # images. alrp_loss rejects NaN without naming them.
        errors = errors.nan_to_num(nan=torch.inf, posinf=torch.inf)
        losses = alrp_loss(*candidates.entries(), errors, delta=self.delta, group=candidates.group)
        return {"loss_cls": losses.classification, "loss_box": losses.localization}


class APE(Classification):
    """APE Loss (Xu et al., CVPR 2022); see :func:`ranking_det.losses.ape_loss`.

    Args:
        lam: slope of the sigmoid, > 0.
        cutoff: ignore pairs with lam (s_v - s_u) <= cutoff, < 0; None to use all pairs.
        count_self: whether a positive adds 1/2 to its own balance constant.
        max_negatives: keep only the negatives with the highest logits; None for all.
        saturate: whether to compute the loss of a pair from a single-precision sigmoid, so that a
            pair whose sigmoid is 1 has no gradient.
        normalizer: divide by the number of all "positives", or of the "active" ones, which have at
            least one pair.

    Raises:
        ValueError: an argument is out of range.
    """

    uses_continuous_labels = True

    def __init__(
        self,
        lam: float = 8.0,
        cutoff: float | None = -4.0,
        count_self: bool = True,
        max_negatives: int | None = 100_000,
        saturate: bool = False,
        normalizer: str = "positives",
    ) -> None:
        super().__init__(locals())

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Compute the APE loss.

        Args:
            candidates: the candidates of one step.

        Returns:
            ``loss_cls``, a scalar with gradient.
        """
        return {"loss_cls": ape_loss(*candidates.entries(), candidates.quality, **self.options)}


class RankDet(Classification):
    """The global, class-specific and IoU-guided losses of RankDetNet (Liu et al., CVPR 2021).

    See :func:`ranking_det.losses.global_ranking_loss`,
    :func:`ranking_det.losses.class_specific_ranking_loss` and
    :func:`ranking_det.losses.iou_guided_ranking_loss`. The paper does not say how to combine the
    losses of several images. Use ``rank_scope="image"`` in the criterion for the mean over images
    with a positive. All images and classes are ranked in one call, which synchronizes host and GPU
    three times, regardless of their number. For detectors without boxes, the Dice coefficients of
    the masks take the place of the IoU.

    Args:
        global_weight: factor of the global loss, >= 0; 0 disables it.
        class_weight: factor of the class-specific loss, >= 0; 0 disables it.
        iou_weight: factor of the IoU-guided loss, >= 0; 0 disables it.
        focal_weight: factor of an additional focal loss, the sum over all images divided by the
            number of positives, >= 0; 0 disables it. The paper trains it with the IoU-guided loss
            alone (table 4, row 4).
        negatives: "group" or "ohem", the negative mining of the global and the class-specific loss.
        ratio: with "ohem", the number of negatives per positive, >= 1.
        global_groups: with "group", the number of groups in the global loss, >= 1.
        class_groups: with "group", the number of groups per class, >= 1.
        distance: the loss of a pair, "exp", "sigmoid" or "logistic".
        reweight: whether to weight pairs by their own loss, as in the paper.
        alpha: sharpness of the IoU-guided loss, > 0.
        iou_gradient: which IoU of a pair has a gradient: the IoU of the "higher" score, "both" or
            "none".
        merge_levels: whether to compare the positives of a class across levels.
        probabilities: whether to rank sigmoids, in [0, 1], instead of logits.

    Raises:
        ValueError: an argument is out of range, or all three weights are 0.
    """

    takes_branch = True

    def __init__(
        self,
        *,
        global_weight: float = 1.0,
        class_weight: float = 1.0,
        iou_weight: float = 1.0,
        focal_weight: float = 0.0,
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
        for name in ("global_weight", "class_weight", "iou_weight", "focal_weight"):
            check_at_least(name, getattr(self, name), 0.0)
        if not (global_weight or class_weight or iou_weight):
            raise ValueError(
                "global_weight, class_weight, iou_weight: expected one of them above 0, got all 0"
            )

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Compute the three losses, ranking all images together.

        Args:
            candidates: the candidates of one step.

        Returns:
            ``loss_global``, ``loss_class``, ``loss_iou`` and ``loss_cls`` (the focal loss), except
            losses of weight 0.
        """
        return self._rank(candidates, torch.zeros_like(candidates.image), 1)

    def over_images(self, candidates: Candidates) -> dict[str, Tensor]:
        """Compute the losses of each image separately and average over images with a positive.

        Args:
            candidates: the candidates of one step.

        Returns:
            ``loss_global``, ``loss_class``, ``loss_iou`` and ``loss_cls`` (the focal loss), except
            losses of weight 0.
        """
        return self._rank(candidates, candidates.image, candidates.num_images)

    def _rank(self, candidates: Candidates, image: Tensor, num_images: int) -> dict[str, Tensor]:
        """Rank the rows of each image and average over images with a positive."""
        labels, rows = candidates.labels, candidates.positives
        scores = self._scores(candidates)
        class_scores = scores[rows, labels[rows]]
        losses = {}
        options = {"negatives": self.negatives, "ratio": self.ratio, "distance": self.distance}
        options |= {"reweight": self.reweight, "positives": rows}
        options |= {"image": image, "num_images": num_images}
        if self.global_weight:
            # The global loss is the class-specific loss of a single class "object".
            objectness = scores.amax(dim=1).index_copy(0, rows, class_scores)[:, None]
            loss = class_specific_ranking_loss(
                objectness, labels.clamp(max=0), groups=self.global_groups, **options
            )
            losses["loss_global"] = self.global_weight * loss
        if self.class_weight:
            loss = class_specific_ranking_loss(scores, labels, groups=self.class_groups, **options)
            losses["loss_class"] = self.class_weight * loss
        if self.iou_weight:
            loss = self._iou_guided(candidates, class_scores, image[rows])
            losses["loss_iou"] = self.iou_weight * loss
        # The number of images with a positive, at least 1; images are in ascending order.
        count = (image[rows].diff() != 0).sum() + 1
        losses = {name: loss / count for name, loss in losses.items()}
        if self.focal_weight:
            loss = focal(candidates.logits, labels, rows) / max(len(rows), 1)
            losses["loss_cls"] = self.focal_weight * loss
        return losses

    def _scores(self, candidates: Candidates) -> Tensor:
        """Return the scores (R, K) to rank: -inf in ignored rows and where the logits are -inf."""
        logits, labels, rows = candidates.logits, candidates.labels, candidates.positives
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        absent = (labels == IGNORE)[:, None] | (logits == -torch.inf)
        # A positive is ranked even if its logit is -inf, which is a probability of 0.
        absent[rows, labels[rows]] = False
        logits = logits.masked_fill(absent, -torch.inf)
        return logits.sigmoid().masked_fill(absent, -torch.inf) if self.probabilities else logits

    def _iou_guided(self, candidates: Candidates, scores: Tensor, images: Tensor) -> Tensor:
        rows, num_classes = candidates.positives, candidates.logits.shape[1]
        groups = images * num_classes + candidates.labels[rows]
        if not self.merge_levels:
            groups = groups + candidates.num_images * num_classes * candidates.level[rows]
        if candidates.boxes is not None:
            ious = box_iou(candidates.boxes.boxes, candidates.boxes.gt_boxes)
        else:
            masks = candidates.mask_targets
            coefficients = 1 - dice_errors(masks.logits, masks.masks)
            ious = mean_of_positives(coefficients, masks.index, len(rows))
        ious = ious.to(scores.dtype)
        return iou_guided_ranking_loss(
            scores, ious, groups, alpha=self.alpha, iou_gradient=self.iou_gradient
        )


class CrossEntropy(Classification):
    """Softmax cross entropy with a background class; see :func:`ranking_det.losses.cross_entropy`.

    The classification loss of Faster R-CNN (Ren et al., NeurIPS 2015). With hard negative mining it
    is the loss of SSD (Liu et al., ECCV 2016) and YOLACT (Bolya et al., ICCV 2019).

    Args:
        negatives_per_positive: background rows of an image that count for each of its positives,
            those with the highest loss, >= 1; None for all rows.

    Raises:
        ValueError: ``negatives_per_positive`` is out of range.
    """

    is_sum = True
    softmax = True

    def __init__(self, negatives_per_positive: int | None = None) -> None:
        super().__init__(locals())

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Compute the cross entropy.

        Args:
            candidates: the candidates of one step.

        Returns:
            ``loss_cls``, the sum over the rows that count, with gradient.
        """
        rows = candidates.logits, candidates.labels
        return {"loss_cls": cross_entropy(*rows, image=candidates.image, **self.options)}


class _Pointwise(Classification):
    """Base class of the baselines with one sigmoid per class."""

    is_sum = True
    takes_branch = True
    loss: Callable[..., Tensor]

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Compute the loss.

        Args:
            candidates: the candidates of one step.

        Returns:
            ``loss_cls``, the sum over all entries that are not ignored, with gradient.
        """
        quality = [candidates.quality] if self.uses_continuous_labels else []
        rows = candidates.labels, *quality, candidates.positives
        return {"loss_cls": self.loss(candidates.logits, *rows, **self.options)}


class Focal(_Pointwise):
    """Focal Loss (Lin et al., ICCV 2017); see :func:`ranking_det.losses.focal`.

    Args:
        alpha: weight of the positives, in [0, 1]; negatives have weight 1 - alpha.
        gamma: exponent of the modulating factor, >= 0.

    Raises:
        ValueError: an argument is out of range.
    """

    loss = staticmethod(focal)

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0) -> None:
        super().__init__(locals())


class QualityFocal(_Pointwise):
    """Quality Focal Loss (Li et al., NeurIPS 2020); see :func:`ranking_det.losses.quality_focal`.

    Args:
        beta: exponent of the modulating factor |target - score|, >= 0.

    Raises:
        ValueError: ``beta`` is out of range.
    """

    uses_continuous_labels = True
    loss = staticmethod(quality_focal)

    def __init__(self, beta: float = 2.0) -> None:
        super().__init__(locals())


class Varifocal(_Pointwise):
    """Varifocal Loss (Zhang et al., CVPR 2021); see :func:`ranking_det.losses.varifocal`.

    Args:
        alpha: weight of the negatives, >= 0.
        gamma: exponent of the negatives' score in their weight, >= 0.

    Raises:
        ValueError: an argument is out of range.
    """

    uses_continuous_labels = True
    loss = staticmethod(varifocal)

    def __init__(self, alpha: float = 0.75, gamma: float = 2.0) -> None:
        super().__init__(locals())
