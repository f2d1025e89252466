"""Mask losses, one value per mask: Dice and binary cross entropy.

Shapes: Q masks of h x w pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ranking_det.checks import check_at_least, check_masks
from ranking_det.losses.kernels import constants


def dice_errors(logits: Tensor, masks: Tensor, *, eps: float = constants.DICE_EPSILON) -> Tensor:
    """Compute the Dice loss of each mask, with squares in the denominator.

    1 - 2 sum(p t) / (sum(p^2) + sum(t^2) + eps) over the pixels, with p = sigmoid(logit) and the
    target t (Milletari et al., "V-Net", 3DV 2016, section 3). An empty target gives 1 and no
    gradient.

    Args:
        logits: (Q, h, w) float, raw.
        masks: (Q, h, w) in [0, 1], the ground-truth masks.
        eps: added to the denominator, in pixels, > 0; .002 in SOLO.

    Returns:
        (Q,) float32 or better in [0, 1], with gradient.

    Raises:
        ValueError: the shapes are not as described, or ``eps`` is out of range.

    Example:
        >>> dice_errors(torch.tensor([[[9., -9.]]]), torch.tensor([[[1., 0.]]])).item() < 1e-3
        True
    """
    check_at_least("eps", eps, 0.0, strictly=True)
    logits, t = _flatten_masks(logits, masks)
    p = logits.sigmoid()
    overlap = (p * t).sum(1)
    return 1 - 2 * overlap / (p.square().sum(1) + t.square().sum(1) + eps)


def mask_cross_entropies(logits: Tensor, masks: Tensor, areas: Tensor | None = None) -> Tensor:
    """Compute the binary cross entropy of each mask, the mean over its pixels.

    The mask loss of Mask R-CNN (He et al., ICCV 2017, section 3). With ``areas`` it is the sum over
    the pixels, divided by the object's area, as in YOLACT (Bolya et al., ICCV 2019, section 3.2).

    Args:
        logits: (Q, h, w) float, raw.
        masks: (Q, h, w) in [0, 1], the ground-truth masks.
        areas: (Q,) the divisors, in pixels of the mask, > 0; None for h w.

    Returns:
        (Q,) float32 or better, >= 0, with gradient.

    Raises:
        ValueError: the shapes are not as described.
    """
    entropies = functional.binary_cross_entropy_with_logits(
        *_flatten_masks(logits, masks), reduction="none"
    )
    return entropies.mean(1) if areas is None else entropies.sum(1) / areas.to(entropies.dtype)


def _flatten_masks(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Check logits and masks, and flatten each mask: (Q, h w), in float32 or better."""
    check_masks(logits, masks)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(dtype).flatten(1), masks.to(dtype).flatten(1)
