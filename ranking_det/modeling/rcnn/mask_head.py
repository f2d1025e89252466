"""Masks of positive proposals, in training.

Shapes: P positives of all images, Q that have a mask, K classes, S x S pixels of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY, MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Instances, PolygonMasks
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn
from torchvision.ops import roi_align


@ROI_MASK_HEAD_REGISTRY.register()
class RankingMaskHead(MaskRCNNConvUpsampleHead):
    """Detectron2's mask head, whose last layer starts as the other layers do.

    That is wider (He et al., ICCV 2015) than Detectron2's deviation of .001, and what the published
    ranking detectors have. The losses are those of :class:`ranking_det.modeling.RankingROIHeads`.

    Args:
        input_shape: of the pooled features.
        arguments: ``num_classes`` (1 for masks that are the same for all classes), ``conv_dims``
            and ``conv_norm`` of Detectron2's mask head.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, **arguments: Any) -> None:
        super().__init__(input_shape, **arguments)
        c2_msra_fill(self.predictor)


class CascadeMaskHeads(nn.ModuleList):
    """The mask heads of a cascade's stages, whose masks are averaged at inference."""

    def forward(self, features: Tensor, instances: list[Instances]) -> list[Instances]:
        """Predict masks, as a Detectron2 mask head does in evaluation mode.

        Args:
            features: (R, C, H, W), pooled at the boxes of all R instances.
            instances: per image ``pred_classes``.

        Returns:
            The same with ``pred_masks`` (R_i, 1, S, S), the mean of the heads' probabilities.
        """
        masks = [[image.pred_masks for image in head(features, instances)] for head in self]
        for image, *stages in zip(instances, *masks, strict=True):
            image.pred_masks = torch.stack(stages).mean(dim=0)
        return instances


def choose_masked(gt_index: Tensor, targets: Sequence[Instances], max_masks: int) -> Tensor:
    """Choose the positives that get a mask, random ones where there are more than ``max_masks``.

    Nothing is known of the mask of an object that has none.

    Args:
        gt_index: (P,) int64, the object of each positive, in all images together.
        targets: per image ``gt_masks``.
        max_masks: of all images together.

    Returns:
        (Q,) int64 in 0..P-1, ascending.

    Raises:
        ValueError: there are objects, but no ``gt_masks``.
    """
    known = [torch.zeros(0, dtype=torch.bool, device=gt_index.device)]
    for objects in targets:
        if len(objects) and not objects.has("gt_masks"):
            raise ValueError(
                "targets: expected gt_masks, which the data loader gives with masks=True "
                "(BoxMapper) or use_instance_mask=True (DatasetMapper)"
            )
        if len(objects):
            known.append(objects.gt_masks.nonempty().to(gt_index.device))
    index = torch.nonzero(torch.cat(known)[gt_index]).squeeze(1)
    if len(index) > max_masks:
        chosen = torch.zeros(len(index), dtype=torch.bool)
        chosen[torch.randperm(len(index))[:max_masks]] = True
        index = index[chosen.to(index.device)]
    return index


def select_class(logits: Tensor, classes: Tensor) -> Tensor:
    """Of masks by class (P, K, S, S) that of each one's class, of others (P, 1, S, S) the one.

    Args:
        logits: raw.
        classes: (P,) int64.

    Returns:
        (P, S, S), with gradient.
    """
    if logits.shape[1] == 1:
        return logits[:, 0]
    return logits[torch.arange(len(logits), device=logits.device), classes]


def cut_masks(
    rois: Sequence[Tensor], gt_index: Sequence[Tensor], targets: Sequence[Instances], size: int
) -> Tensor:
    """What the mask of each positive's object looks like in its proposal.

    Args:
        rois: per image (Q_i, 4), the proposals.
        gt_index: per image (Q_i,) int64, the object of each, in all images together.
        targets: per image ``gt_masks``.
        size: S.

    Returns:
        (Q, S, S) float32, 0 or 1.
    """
    masks, first = [torch.zeros(0, size, size, device=rois[0].device)], 0
    for boxes, index, objects in zip(rois, gt_index, targets, strict=True):
        if len(boxes):
            masks.append(_cut(objects.gt_masks, index - first, boxes, size).float())
        first += len(objects)
    return torch.cat(masks)


def _cut(masks: PolygonMasks | BitMasks, index: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Of each box (P, 4) the mask (size, size) of the object that its index names, bool."""
    if isinstance(masks, PolygonMasks):
        return masks[index].crop_and_resize(boxes, size)
    # As BitMasks cuts them, but without a copy of a whole image's mask for every box.
    whole = masks.tensor.to(boxes.device, torch.float32)[:, None]
    rois = torch.cat([index[:, None].to(boxes), boxes], dim=1)
    return roi_align(whole, rois, size, 1.0, 0, True)[:, 0] >= 0.5
