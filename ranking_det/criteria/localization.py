"""Localization losses of a criterion: box regression, masks, and the IoU or centerness branch.

A localization task computes the error of each box or mask. The criterion averages the errors with
instance weights and balances the mean against the classification loss.

Shapes: P positives, Q predicted masks of some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional

from ranking_det.boxes import box_giou, box_iou
from ranking_det.checks import check_at_least, check_that
from ranking_det.criteria.balance import ConstantBalance, ValueBalance
from ranking_det.criteria.candidates import Candidates, mean_of_positives
from ranking_det.losses.kernels.collectives import mean_over_workers
from ranking_det.losses.mask_errors import dice_errors, mask_cross_entropies


class Localization(nn.Module):
    """Base class of localization tasks; by default a task on boxes.

    Attributes:
        loss_name: the name of the task's loss.
        balance: the balance of this task. None to use the balance of the criterion, and its
            normalizer if it has one. A task with its own balance ignores the normalizer: its loss
            is the weighted mean of its errors.
        weight: an additional factor, applied after the balance.
    """

    loss_name = "loss_box"
    balance: nn.Module | None
    weight = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.balance = None

    def forward(self, candidates: Candidates) -> Tensor:
        """Compute the error of each box or mask.

        Args:
            candidates: the candidates of one step.

        Returns:
            (P,) errors of boxes or (Q,) errors of masks, with gradient.

        Raises:
            NotImplementedError: a subclass must define it.
        """
        raise NotImplementedError

    def of_positives(self, candidates: Candidates) -> Tensor:
        """Compute the error of each positive.

        Args:
            candidates: the candidates of one step.

        Returns:
            (P,) errors, with gradient.
        """
        return self(candidates)

    @property
    def coder_weights(self) -> tuple[float, ...] | None:
        """The box coder weights (dx, dy, dw, dh) that the task expects; None for any."""
        return None

    def outputs(self, candidates: Candidates) -> Tensor:
        """Return the raw outputs of the head that the errors depend on.

        Args:
            candidates: the candidates of one step.

        Returns:
            (P, 4) outputs of the box head, with gradient.
        """
        return candidates.box_targets.outputs

    def instance_weights(self, candidates: Candidates, weights: Tensor) -> Tensor:
        """Return the weight of each error, given the weights of the positives.

        Args:
            candidates: the candidates of one step.
            weights: (P,) weights of the positives.

        Returns:
            (P,) or (Q,) weights, one for each error.
        """
        return weights


class IoU(Localization):
    """IoU loss, 1 - IoU of the decoded box and its object, in [0, 1]."""

    overlap = staticmethod(box_iou)

    def forward(self, candidates: Candidates) -> Tensor:
        """Compute the error of each box.

        Args:
            candidates: the candidates of one step.

        Returns:
            (P,), with gradient.
        """
        targets = candidates.box_targets
        return 1 - self.overlap(targets.boxes, targets.gt_boxes)


class GIoU(IoU):
    """GIoU loss (Rezatofighi et al., CVPR 2019), 1 - GIoU of box and object, in [0, 2]."""

    overlap = staticmethod(box_giou)


class SmoothL1(Localization):
    """Smooth L1 loss on the raw box outputs (deltas), summed over the four coordinates.

    The loss of Fast R-CNN (Girshick, ICCV 2015, eq. 3). The target is the encoding (dx, dy, dw, dh)
    of the object relative to the anchor (Girshick et al., CVPR 2014, appendix C), times
    ``weights``.

    Args:
        beta: the error at which the loss changes from quadratic to linear, >= 0; 0 is the L1 loss.
        weights: the box coder weights, factors of dx, dy, dw, dh. They must equal the weights of
            the detector's box coder.

    Raises:
        ValueError: ``beta`` is out of range, or ``weights`` are not four numbers.
    """

    def __init__(self, beta: float = 0.0, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> None:
        super().__init__()
        check_at_least("beta", beta, 0.0)
        are_numbers = all(isinstance(weight, (int, float)) for weight in weights)
        check_that(are_numbers and len(weights) == 4, "weights", "four numbers", tuple(weights))
        self.beta = beta
        self.weights = tuple(weights)

    @property
    def coder_weights(self) -> tuple[float, ...]:
        """The box coder weights of the encoded targets."""
        return self.weights

    def forward(self, candidates: Candidates) -> Tensor:
        """Compute the error of each box.

        Args:
            candidates: the candidates of one step.

        Returns:
            (P,), with gradient.
        """
        targets = candidates.box_targets
        anchors, gt_boxes = targets.anchors.float(), targets.gt_boxes.float()
        size, gt_size = anchors[:, 2:] - anchors[:, :2], gt_boxes[:, 2:] - gt_boxes[:, :2]
        shift = (gt_boxes[:, :2] + gt_boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / 2
        encoded = torch.cat([shift / size, torch.log(gt_size / size)], dim=1)
        encoded = encoded * encoded.new_tensor(self.weights)
        outputs = targets.outputs.float()
        return functional.smooth_l1_loss(outputs, encoded, reduction="none", beta=self.beta).sum(1)


class MaskLocalization(Localization):
    """Base class of localization tasks on masks.

    Args:
        weighted: whether to weight the masks by the instance weights; otherwise all have weight 1.
        balanced: whether to scale the loss to the value of the ranking or classification loss.
        weight: an additional factor, >= 0.

    Raises:
        ValueError: ``weight`` is out of range.
    """

    loss_name = "loss_mask"
    error: Callable[[Tensor, Tensor], Tensor]

    def __init__(
        self, *, weighted: bool = True, balanced: bool = True, weight: float = 1.0
    ) -> None:
        super().__init__()
        check_at_least("weight", weight, 0.0)
        self.weighted = weighted
        self.balance = ValueBalance() if balanced else ConstantBalance(1.0)
        self.weight = weight

    def forward(self, candidates: Candidates) -> Tensor:
        """Compute the error of each mask.

        Args:
            candidates: the candidates of one step.

        Returns:
            (Q,), with gradient.
        """
        return self.error(candidates.mask_targets.logits, candidates.mask_targets.masks)

    def of_positives(self, candidates: Candidates) -> Tensor:
        """Compute the mean error of the masks of each positive.

        Args:
            candidates: the candidates of one step.

        Returns:
            (P,), with gradient; 1, the largest Dice error, for a positive without a mask.
        """
        index, count = candidates.mask_targets.index, len(candidates.positives)
        return 1 - mean_of_positives(1 - self(candidates), index, count)

    def outputs(self, candidates: Candidates) -> Tensor:
        """Return the mask logits.

        Args:
            candidates: the candidates of one step.

        Returns:
            (Q, h, w) logits, with gradient.
        """
        return candidates.mask_targets.logits

    def instance_weights(self, candidates: Candidates, weights: Tensor) -> Tensor:
        """Return the weight of each mask: the weight of its positive, or 1.

        Args:
            candidates: the candidates of one step.
            weights: (P,) weights of the positives.

        Returns:
            (Q,) weights, one for each mask.
        """
        weights = weights[candidates.mask_targets.index]
        return weights if self.weighted else torch.ones_like(weights)


class MaskDice(MaskLocalization):
    """Dice loss of masks, as in Rank & Sort Mask R-CNN (Oksuz et al., ICCV 2021, section 5).

    See :func:`ranking_det.losses.dice_errors` and, for the other arguments,
    :class:`MaskLocalization`.

    Args:
        eps: added to the denominator, in pixels, > 0; .002 in SOLO.
        arguments: ``weighted``, ``balanced`` and ``weight`` of :class:`MaskLocalization`.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, *, eps: float = 1e-5, **arguments: Any) -> None:
        super().__init__(**arguments)
        check_at_least("eps", eps, 0.0, strictly=True)
        self.error = partial(dice_errors, eps=eps)


class MaskCrossEntropy(MaskLocalization):
    """Binary cross entropy of masks; see :func:`ranking_det.losses.mask_cross_entropies`.

    The original loss of Mask R-CNN (He et al., ICCV 2017) is ``MaskCrossEntropy(weighted=False,
    balanced=False)``. The loss of YOLACT (Bolya et al., ICCV 2019) also has ``by_area=True`` and
    ``weight=6.125``. For the other arguments see :class:`MaskLocalization`.

    Args:
        by_area: whether the error of a mask is the sum over its pixels, divided by the area of the
            object's box, instead of the mean over all pixels.
        weighted: see :class:`MaskLocalization`.
        balanced: see :class:`MaskLocalization`.
        weight: see :class:`MaskLocalization`.
    """

    def __init__(
        self,
        *,
        by_area: bool = False,
        weighted: bool = True,
        balanced: bool = True,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weighted=weighted, balanced=balanced, weight=weight)
        self.by_area = by_area

    def forward(self, candidates: Candidates) -> Tensor:
        """Compute the error of each mask.

        Args:
            candidates: the candidates of one step.

        Returns:
            (Q,), with gradient.

        Raises:
            ValueError: the masks have no areas to divide by.
        """
        targets = candidates.mask_targets
        if self.by_area and targets.areas is None:
            raise ValueError("candidates.masks.areas: expected the areas of the objects, got None")
        areas = targets.areas if self.by_area else None
        return mask_cross_entropies(targets.logits, targets.masks, areas)


class BranchLoss(nn.Module):
    """Loss of an IoU or centerness branch: mean binary cross entropy over the positives.

    Args:
        target: computes the value in [0, 1] that the branch learns to predict for each positive:
            :class:`ranking_det.criteria.CenternessWeight` (Tian et al., FCOS, ICCV 2019, eq. 3) or
            :class:`ranking_det.criteria.IoUWeight` (Kim and Lee, PAA, ECCV 2020).
        weight: factor of the loss, >= 0.

    Raises:
        ValueError: ``weight`` is out of range.
    """

    def __init__(self, target: nn.Module, weight: float = 1.0) -> None:
        super().__init__()
        check_at_least("weight", weight, 0.0)
        self.target = target
        self.weight = weight

    def forward(self, candidates: Candidates, group: dist.ProcessGroup | None = None) -> Tensor:
        """Compute the loss of the branch.

        Args:
            candidates: the candidates of one step, with ``branch_logits``.
            group: the workers over which the number of positives, the divisor of the loss, is
                averaged; None for this worker alone.

        Returns:
            A scalar with gradient; without positives, zero attached to the graph.

        Raises:
            ValueError: the candidates have no ``branch_logits``.
        """
        branch = candidates.branch_logits
        if branch is None:
            raise ValueError("candidates.branch_logits: expected a tensor, got None")
        logits = branch[candidates.positives].float()
        target = self.target(candidates).to(logits.dtype)
        total = functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
        count = mean_over_workers(torch.full_like(total.detach(), len(logits)), group)
        return self.weight * total / count.clamp(min=1)
