"""What trains the class scores: the ranking losses, and the baselines that do not rank.

Each takes the :class:`Candidates` of a step and returns a dict of scalars. A ranking loss
normalises itself; a baseline (``is_sum``) returns a sum, and the criterion divides it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ranking_det.boxes import box_iou
from ranking_det.checks import check_at_least, check_that
from ranking_det.criteria.candidates import BoxTargets, Candidates
from ranking_det.criteria.localization import Localization
from ranking_det.labels import IGNORE
from ranking_det.losses.alrp import alrp_loss
from ranking_det.losses.ap import ap_loss
from ranking_det.losses.ape import ape_loss
from ranking_det.losses.pointwise import cross_entropy, focal, quality_focal, varifocal
from ranking_det.losses.rank_sort import rank_sort_loss
from ranking_det.losses.rankdetnet import class_specific_ranking_loss, iou_guided_ranking_loss


class Classification(nn.Module):
    """Base class of the components.

    Args:
        options: the arguments of the subclass's constructor, as ``locals()`` there gives them. Each
            becomes an attribute; the loss function checks them, on candidates of no row. A subclass
            that sets its attributes itself needs none.

    Attributes:
        is_sum: whether the scalars are sums, which the criterion divides.
        across_workers: whether the candidates' ``group`` may be other than None.
        takes_branch: whether inference may multiply the scores by those of an IoU or centreness
            branch. Not if the loss itself puts them in the order that inference needs.
        uses_continuous_labels: whether the positives' ``quality`` counts.
        softmax: whether the scores are the softmax over the classes and a background of logit 0,
            and not a sigmoid of each class.
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

    if TYPE_CHECKING:  # the options are attributes of any type

        def __getattr__(self, name: str) -> Any: ...

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the loss function, as the attributes are now."""
        return {name: getattr(self, name) for name in self._names}

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Return the named scalars."""
        raise NotImplementedError

    def over_images(self, candidates: Candidates) -> dict[str, Tensor]:
        """Return the named scalars of each image alone, the mean over images with a positive."""
        parts = [part for part in candidates.images() if len(part.positives)] or [candidates]
        losses = [self(part) for part in parts]
        return {name: torch.stack([loss[name] for loss in losses]).mean() for name in losses[0]}


def _no_candidates() -> Candidates:
    none, boxes = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)
    targets = BoxTargets(boxes, boxes, boxes, boxes)
    return Candidates(torch.zeros(0, 1), none, none, none, none, num_images=0, boxes=targets)


class RankSort(Classification):
    """Rank & Sort Loss; see :func:`ranking_det.losses.rank_sort_loss`, also for the argument."""

    uses_continuous_labels = True
    across_workers = True

    def __init__(self, delta: float = 0.5) -> None:
        super().__init__(locals())

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Return ``loss_rank`` and ``loss_sort``."""
        entries, group = candidates.entries(), candidates.group
        losses = rank_sort_loss(*entries, candidates.quality, group=group, **self.options)
        return {"loss_rank": losses.ranking, "loss_sort": losses.sorting}


class AveragePrecision(Classification):
    """AP Loss and its variants; see :func:`ranking_det.losses.ap_loss`, also for the arguments."""

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
        """Return ``loss_cls``."""
        loss = ap_loss(*candidates.entries(), group=candidates.group, **self.options)
        return {"loss_cls": loss}


class ALRP(Classification):
    """aLRP Loss; see :func:`ranking_det.losses.alrp_loss`, also for ``delta``.

    Args:
        localization: a task on boxes whose errors are in [0, 2].
        delta: half-width of the smoothed step, in logits, >= 0.
        tau: IoU above which a box counts as a true positive, in [0, 1). The localisation error is
            that of the task over 2 (1 - tau).
    """

    across_workers = True

    def __init__(self, localization: Localization, delta: float = 1.0, tau: float = 0.5) -> None:
        check_that(0 <= tau < 1, "tau", "a number in [0, 1)", tau)
        super().__init__(locals())

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Return ``loss_cls`` and ``loss_box``."""
        errors = self.localization(candidates) / (2 * (1 - self.tau))
        # A diverged box makes the loss infinite, which tells; NaN would be refused as an argument.
        errors = errors.nan_to_num(nan=torch.inf, posinf=torch.inf)
        losses = alrp_loss(*candidates.entries(), errors, delta=self.delta, group=candidates.group)
        return {"loss_cls": losses.classification, "loss_box": losses.localization}


class APE(Classification):
    """APE Loss; see :func:`ranking_det.losses.ape_loss`, also for the arguments."""

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
        """Return ``loss_cls``."""
        return {"loss_cls": ape_loss(*candidates.entries(), candidates.quality, **self.options)}


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
        super().__init__(locals())
        for name in ("global_weight", "class_weight", "iou_weight"):
            check_at_least(name, getattr(self, name), 0.0)
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
        options = {"negatives": self.negatives, "ratio": self.ratio, "distance": self.distance}
        options |= {"reweight": self.reweight, "positives": rows}
        options |= {"image": image, "num_images": num_images}
        if self.global_weight:
            # The class-specific loss of one class, which all objects are of.
            objectness = scores.amax(dim=1).index_copy(0, rows, class_scores)[:, None]
            loss = class_specific_ranking_loss(
                objectness, labels.clamp(max=0), groups=self.global_groups, **options
            )
            losses["loss_global"] = self.global_weight * loss
        if self.class_weight:
            loss = class_specific_ranking_loss(scores, labels, groups=self.class_groups, **options)
            losses["loss_class"] = self.class_weight * loss
        if self.iou_weight:
            loss = self._iou_guided(candidates, class_scores, image[rows], num_images)
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

    def _iou_guided(
        self, candidates: Candidates, scores: Tensor, images: Tensor, num_images: int
    ) -> Tensor:
        rows, num_classes = candidates.positives, candidates.logits.shape[1]
        groups = images * num_classes + candidates.labels[rows]
        if not self.merge_levels:
            groups = groups + candidates.num_images * num_classes * candidates.level[rows]
        boxes = candidates.box_targets
        ious = box_iou(boxes.boxes, boxes.gt_boxes).to(scores.dtype)
        return iou_guided_ranking_loss(
            scores,
            ious,
            groups,
            alpha=self.alpha,
            iou_gradient=self.iou_gradient,
            reduction=self.iou_reduction,
            image=images,
            num_images=num_images,
        )


class CrossEntropy(Classification):
    """Softmax cross entropy; see :func:`ranking_det.losses.cross_entropy`."""

    is_sum = True
    softmax = True

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Return ``loss_cls``, a sum."""
        return {"loss_cls": cross_entropy(candidates.logits, candidates.labels)}


class _Pointwise(Classification):
    """Base class of the baselines with a sigmoid for each class."""

    is_sum = True
    takes_branch = True
    loss: Callable[..., Tensor]

    def forward(self, candidates: Candidates) -> dict[str, Tensor]:
        """Return ``loss_cls``, a sum."""
        quality = [candidates.quality] if self.uses_continuous_labels else []
        rows = candidates.labels, *quality, candidates.positives
        return {"loss_cls": self.loss(candidates.logits, *rows, **self.options)}


class Focal(_Pointwise):
    """Focal Loss; see :func:`ranking_det.losses.focal`, also for the arguments."""

    loss = staticmethod(focal)

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0) -> None:
        super().__init__(locals())


class QualityFocal(_Pointwise):
    """Quality Focal Loss; see :func:`ranking_det.losses.quality_focal`, also for the argument."""

    uses_continuous_labels = True
    loss = staticmethod(quality_focal)

    def __init__(self, beta: float = 2.0) -> None:
        super().__init__(locals())


class Varifocal(_Pointwise):
    """Varifocal Loss; see :func:`ranking_det.losses.varifocal`, also for the arguments."""

    uses_continuous_labels = True
    loss = staticmethod(varifocal)

    def __init__(self, alpha: float = 0.75, gamma: float = 2.0) -> None:
        super().__init__(locals())
