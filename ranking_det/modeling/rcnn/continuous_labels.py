"""What the positives of an R-CNN are ranked by (Oksuz et al., ICCV 2021, section S3.4).

Each function takes the boxes of the P positives and the masks of some of them, None for none, and
returns labels (P,) in [0, 1] without gradient, or None for the IoU. A positive without a mask has
its IoU where a mask is asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ranking_det.criteria import BoxTargets, MaskTargets

ContinuousLabels = Callable[[BoxTargets, MaskTargets | None], Tensor | None]


def by_iou(boxes: BoxTargets, masks: MaskTargets | None) -> None:
    """The IoU of the box."""


def by_dice(boxes: BoxTargets, masks: MaskTargets | None) -> Tensor | None:
    """The Dice coefficient of the mask."""
    return None if masks is None else _replace(boxes.overlap(), masks, share=1.0)


def by_mean(boxes: BoxTargets, masks: MaskTargets | None) -> Tensor | None:
    """The mean of both."""
    return None if masks is None else _replace(boxes.overlap(), masks, share=0.5)


def binary(boxes: BoxTargets, masks: MaskTargets | None) -> Tensor:
    """1 for all."""
    return torch.ones_like(boxes.boxes[:, 0])


def _replace(labels: Tensor, masks: MaskTargets, share: float) -> Tensor:
    """The labels, of a positive with a mask by ``share`` the Dice coefficient."""
    dice = masks.overlap().to(labels.dtype)
    labels[masks.index] = (1 - share) * labels[masks.index] + share * dice
    return labels


CONTINUOUS_LABELS: dict[str, ContinuousLabels] = {
    "iou": by_iou,
    "dice": by_dice,
    "mean": by_mean,
    "binary": binary,
}
