"""Localisation tasks: the error of each box or mask, which the criterion weighs and balances.

And the loss of a branch that tells how well a box is localised.

Shapes: P positives, Q predicted masks of some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional

from ranking_det.boxes import box_giou, box_iou
from ranking_det.checks import check_at_least, check_that
from ranking_det.criteria.balance import ConstantBalance, ValueBalance
from ranking_det.criteria.candidates import Candidates
from ranking_det.losses.kernels.collectives import mean_over_workers
from ranking_det.losses.mask_errors import dice_errors, mask_cross_entropies


class Localization(nn.Module):
    """Base class; a task on boxes as it is.

    Attributes:
        loss_name: the task's name among the losses.
        balance: the task's own balance against the ranking, with which its loss is always a mean;
            None for the criterion's balance, and for its normalizer if there is one.
        weight: a further factor, after the balance.
    """

    loss_name = "loss_box"
    balance: nn.Module | None
    weight = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.balance = None

    def forward(self, candidates: Candidates) -> Tensor:
        """Return the errors, (P,) or (Q,), with gradient."""
        raise NotImplementedError

    @property
    def coder_weights(self) -> tuple[float, ...] | None:
        """The factors of dx, dy, dw, dh of the box coder that the errors are for; None for any."""
        return None

    def outputs(self, candidates: Candidates) -> Tensor:
        """The raw outputs of the head that the errors train."""
        return candidates.box_targets.outputs

    def instance_weights(self, candidates: Candidates, weights: Tensor) -> Tensor:
        """The weight of each error, from those of the positives (P,)."""
        return weights


class IoU(Localization):
    """1 - IoU of the decoded box and its object, in [0, 1]."""

    overlap = staticmethod(box_iou)

    def forward(self, candidates: Candidates) -> Tensor:
        """Return (P,), with gradient."""
        targets = candidates.box_targets
        return 1 - self.overlap(targets.boxes, targets.gt_boxes)


class GIoU(IoU):
    """1 - GIoU of the decoded box and its object, in [0, 2]."""

    overlap = staticmethod(box_giou)


class SmoothL1(Localization):
    """Smooth L1 on the raw box outputs, summed over the four coordinates.

    The target is the encoding (dx, dy, dw, dh) of the object relative to the anchor (Girshick et
    al., CVPR 2014, appendix C), times ``weights``.

    Args:
        beta: where the quadratic turns linear, >= 0; 0 is plain L1.
        weights: factors of dx, dy, dw, dh; they must equal those of the detector's box coder.
    """

    def __init__(self, beta: float = 0.0, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> None:
        super().__init__()
        check_at_least("beta", beta, 0.0)
        numbers = all(isinstance(weight, (int, float)) for weight in weights)
        check_that(numbers and len(weights) == 4, "weights", "four numbers", tuple(weights))
        self.beta = beta
        self.weights = tuple(weights)

    @property
    def coder_weights(self) -> tuple[float, ...]:
        """Its own weights."""
        return self.weights

    def forward(self, candidates: Candidates) -> Tensor:
        """Return (P,), with gradient."""
        targets = candidates.box_targets
        anchors, gt_boxes = targets.anchors.float(), targets.gt_boxes.float()
        size, gt_size = anchors[:, 2:] - anchors[:, :2], gt_boxes[:, 2:] - gt_boxes[:, :2]
        shift = (gt_boxes[:, :2] + gt_boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / 2
        encoded = torch.cat([shift / size, torch.log(gt_size / size)], dim=1)
        encoded = encoded * encoded.new_tensor(self.weights)
        outputs = targets.outputs.float()
        return functional.smooth_l1_loss(outputs, encoded, reduction="none", beta=self.beta).sum(1)


class MaskLocalization(Localization):
    """Base class of tasks on masks.

    Args:
        weighted: whether the instance weights count; otherwise all masks count the same.
        balanced: whether the loss is brought to the size of the ranking or classification loss.
        weight: a further factor, >= 0.
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
        """Return (Q,), with gradient."""
        return self.error(candidates.mask_targets.logits, candidates.mask_targets.masks)

    def outputs(self, candidates: Candidates) -> Tensor:
        """The masks' logits."""
        return candidates.mask_targets.logits

    def instance_weights(self, candidates: Candidates, weights: Tensor) -> Tensor:
        """The weight of each mask is that of its positive."""
        weights = weights[candidates.mask_targets.index]
        return weights if self.weighted else torch.ones_like(weights)


class MaskDice(MaskLocalization):
    """Dice loss of each mask, that of Rank & Sort Mask R-CNN (Oksuz et al., ICCV 2021, section 5).

    See :func:`ranking_det.losses.dice_errors` and, for the arguments, :class:`MaskLocalization`.
    """

    error = staticmethod(dice_errors)


class MaskCrossEntropy(MaskLocalization):
    """Binary cross entropy of each mask; see :func:`ranking_det.losses.mask_cross_entropies`.

    Mask R-CNN's own loss (He et al., ICCV 2017) is ``MaskCrossEntropy(weighted=False,
    balanced=False)``. For the arguments see :class:`MaskLocalization`.
    """

    error = staticmethod(mask_cross_entropies)


class BranchLoss(nn.Module):
    """Binary cross entropy of the branch at the positives, averaged over them.

    Args:
        target: what the branch predicts, an instance weight in [0, 1]:
            :class:`ranking_det.criteria.CenternessWeight` (Tian et al., FCOS, ICCV 2019, eq. 3) or
            :class:`ranking_det.criteria.IoUWeight` (Kim and Lee, PAA, ECCV 2020).
        weight: factor of the loss, >= 0.
    """

    def __init__(self, target: nn.Module, weight: float = 1.0) -> None:
        super().__init__()
        check_at_least("weight", weight, 0.0)
        self.target = target
        self.weight = weight

    def forward(self, candidates: Candidates, group: dist.ProcessGroup | None = None) -> Tensor:
        """Compute the loss.

        Args:
            candidates: of one step, with ``branch_logits``.
            group: divide by the mean number of positives over its workers; None for this worker's.

        Returns:
            A scalar; zero, attached to the branch, without a positive.
        """
        branch = candidates.branch_logits
        if branch is None:
            raise ValueError("candidates.branch_logits: expected a tensor, got None")
        logits = branch[candidates.positives].float()
        target = self.target(candidates).to(logits.dtype)
        error = functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
        count = mean_over_workers(torch.full_like(error.detach(), len(logits)), group)
        return self.weight * error / count.clamp(min=1)
