"""Mask targets: bitmaps of the objects, random samples of masks, continuous labels of masks.

Shapes: P positives of all images, Q positives whose masks are trained, G ground-truth objects of
all images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks
from torch import Tensor

from ranking_det.criteria import BoxTargets, MaskTargets

CONTINUOUS_LABELS = ("iou", "dice", "mean", "binary")
"""Labels by which the positives of a detector with boxes and masks may be ranked (Oksuz et al.,
ICCV 2021, S3.4)."""


def check_masks_exist(targets: Sequence[Instances]) -> None:
    """Check that the objects have masks.

    Args:
        targets: one Instances per image.

    Raises:
        ValueError: there are objects, but no ``gt_masks``.
    """
    for objects in targets:
        if len(objects) and not objects.has("gt_masks"):
            raise ValueError(
                "instances: expected gt_masks, got none; the data loader gives them with "
                "masks=True (BoxMapper) or use_instance_mask=True (DatasetMapper)"
            )


def draw_bitmaps(objects: Instances, device: torch.device) -> Tensor:
    """Draw the masks of the n objects of one image of H x W pixels.

    Args:
        objects: with ``gt_masks``, polygons or bitmaps. It may lack them if it is empty.
        device: the device of the result.

    Returns:
        (n, H, W) bool.

    Raises:
        ValueError: there are objects, but no ``gt_masks``.
    """
    check_masks_exist([objects])
    if not len(objects):
        return torch.zeros(0, *objects.image_size, dtype=torch.bool, device=device)
    masks = objects.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, *objects.image_size)
    return masks.tensor.to(device, torch.bool)


def sample_masks(index: Tensor, max_masks: int) -> Tensor:
    """Choose masks at random if there are more than ``max_masks``.

    Args:
        index: (n,) int64, the positives that have a mask, ascending.
        max_masks: the most masks to choose, >= 0.

    Returns:
        At most ``max_masks`` of the entries, ascending.
    """
    if len(index) <= max_masks:
        return index
    is_selected = torch.zeros(len(index), dtype=torch.bool)
    is_selected[torch.randperm(len(index))[:max_masks]] = True
    return index[is_selected.to(index.device)]


def continuous_labels(label: str, boxes: BoxTargets, masks: MaskTargets | None) -> Tensor | None:
    """Compute the continuous labels, by which the positives are ranked.

    Args:
        label: one of CONTINUOUS_LABELS: the IoU of the box, the Dice coefficient of the mask, the
            mean of both, or 1 for all. A positive without a mask has its IoU.
        boxes: the box targets of the P positives.
        masks: the mask targets of Q of the positives; None without masks.

    Returns:
        (P,) in [0, 1], without gradient; None stands for the IoU.
    """
    if label == "binary":
        return torch.ones_like(boxes.boxes[:, 0])
    if label == "iou" or masks is None:
        return None
    labels, share = boxes.overlap(), 1.0 if label == "dice" else 0.5
    dice = masks.overlap().to(labels.dtype)
    labels[masks.index] = (1 - share) * labels[masks.index] + share * dice
    return labels
