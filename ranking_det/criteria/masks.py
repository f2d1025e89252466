"""The loss of the masks of an R-CNN, balanced against its box head.

Shapes: P positives, S x S pixels of a mask.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional

from ranking_det.checks import check_at_least, check_choice, describe
from ranking_det.criteria.balance import ratio_or_one
from ranking_det.losses.kernels.collectives import undo_average, weighted_mean

EPS = 1e-5


def dice_errors(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss of each mask (Milletari et al., 3DV 2016), with squares in the denominator.

    1 - 2 sum(p t) / (sum(p^2) + sum(t^2) + 1e-5), over the pixels. An empty target gives 1 and no
    gradient.

    Args:
        logits: (P, S, S), raw.
        targets: (P, S, S), in [0, 1].

    Returns:
        (P,) float32 or better in [0, 1], with gradient.

    Raises:
        ValueError: other shapes.

    >>> dice_errors(torch.tensor([[[9., -9.]]]), torch.tensor([[[1., 0.]]])).item() < 1e-3
    True
    """
    logits, t = _widen(logits, targets)
    p = logits.sigmoid()
    overlap = (p * t).sum(1)
    return 1 - 2 * overlap / (p.square().sum(1) + t.square().sum(1) + EPS)


def mask_cross_entropies(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy of each mask, the mean over its pixels (He et al., ICCV 2017).

    Args:
        logits: (P, S, S), raw.
        targets: (P, S, S), in [0, 1].

    Returns:
        (P,) float32 or better, >= 0, with gradient.

    Raises:
        ValueError: other shapes.
    """
    entropies = functional.binary_cross_entropy_with_logits(
        *_widen(logits, targets), reduction="none"
    )
    return entropies.mean(1)


def _widen(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Both (P, S S), in float32 or better."""
    if logits.dim() != 3 or targets.shape != logits.shape:
        raise ValueError(
            f"targets: expected masks of the shape of logits, (P, S, S), got {describe(targets)} "
            f"for {describe(logits)}"
        )
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(wide).flatten(1), targets.to(wide).flatten(1)


ERRORS = {"dice": dice_errors, "cross_entropy": mask_cross_entropies}


class MaskCriterion(nn.Module):
    """Dice loss, weighted as the boxes are, and balanced against the box head's task loss.

    That of Rank & Sort Mask R-CNN (Oksuz et al., ICCV 2021, section 5): the mean of the errors by
    the instance weights of the box head, times the ratio of the box head's task loss to it. Mask
    R-CNN's own loss is ``MaskCriterion("cross_entropy", weighted=False, balanced=False)``.

    Args:
        error: of a mask, "dice" or "cross_entropy".
        weighted: whether the instance weights count; otherwise all masks count the same.
        balanced: whether the loss is brought to the size of the task loss.
        weight: a further factor, >= 0.
    """

    def __init__(
        self,
        error: str = "dice",
        *,
        weighted: bool = True,
        balanced: bool = True,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_choice("error", error, tuple(ERRORS))
        check_at_least("weight", weight, 0.0)
        self.error = error
        self.weighted = weighted
        self.balanced = balanced
        self.weight = weight

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        weights: Tensor,
        task_loss: Tensor,
        group: dist.ProcessGroup | None = None,
    ) -> Tensor:
        """Compute the loss of a step.

        Args:
            logits: (P, S, S), raw, of each positive's class.
            targets: (P, S, S), in [0, 1].
            weights: (P,) >= 0, detached.
            task_loss: detached scalar, what the box head's balance compares with.
            group: the workers over which the boxes' criterion ranks; the mean is over their masks.

        Returns:
            A scalar; zero, attached to the logits, without a positive.

        Raises:
            ValueError: the shapes do not fit each other.
        """
        if weights.shape != logits.shape[:1]:
            raise ValueError(
                f"weights: expected one for each of the {len(logits)} masks, got "
                f"{describe(weights)}"
            )
        errors = ERRORS[self.error](logits, targets)
        weights = weights if self.weighted else torch.ones_like(weights)
        loss = weighted_mean(errors, weights, group)
        factor: Tensor | float = 1.0
        if self.balanced:
            factor = ratio_or_one(task_loss, loss.detach())
        return undo_average(self.weight * factor * loss, group)
