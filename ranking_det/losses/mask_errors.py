"""Mask losses, one value per mask: Dice and binary cross entropy.

Shapes: Q masks of h x w pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ranking_det.checks import check_masks
from ranking_det.losses.kernels import constants


def dice_errors(logits: Tensor, masks: Tensor) -> Tensor:
    """Compute the Dice loss of each mask, with squares in the denominator.

    1 - 2 sum(p t) / (sum(p^2) + sum(t^2) + 1e-5) over the pixels, with p = sigmoid(logit) and the
    target t (Milletari et al., "V-Net", 3DV 2016, section 3). An empty target gives 1 and no
    gradient.

    Args:
        logits: (Q, h, w) float, raw.
        masks: (Q, h, w) in [0, 1], the ground-truth masks.

    Returns:
        (Q,) float32 or better in [0, 1], with gradient.

    Raises:
        ValueError: the shapes are not as described.

    Example:
        >>> dice_errors(torch.tensor([[[9., -9.]]]), torch.tensor([[[1., 0.]]])).item() < 1e-3
        True
    """
    logits, t = _flatten_masks(logits, masks)
    p = logits.sigmoid()
    overlap = (p * t).sum(1)
    return 1 - 2 * overlap / (p.square().sum(1) + t.square().sum(1) + constants.DICE_EPSILON)


def mask_cross_entropies(logits: Tensor, masks: Tensor) -> Tensor:
    """Compute the binary cross entropy of each mask, the mean over its pixels.

    The mask loss of Mask R-CNN (He et al., ICCV 2017, section 3).

    Args:
        logits: (Q, h, w) float, raw.
        masks: (Q, h, w) in [0, 1], the ground-truth masks.

    Returns:
        (Q,) float32 or better, >= 0, with gradient.

    Raises:
        ValueError: the shapes are not as described.
    """
    entropies = functional.binary_cross_entropy_with_logits(
        *_flatten_masks(logits, masks), reduction="none"
    )
    return entropies.mean(1)


def _flatten_masks(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Check logits and masks, and flatten each mask: (Q, h w), in float32 or better."""
    check_masks(logits, masks)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(dtype).flatten(1), masks.to(dtype).flatten(1)
