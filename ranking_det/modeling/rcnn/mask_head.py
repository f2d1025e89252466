"""Mask heads, and the mask targets of positive proposals.

Shapes: P positives of all images, Q positives that have a mask, Q_i in image i, K classes, S x S
pixels of a mask.
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

from ranking_det.modeling.mask_targets import check_masks_exist, sample_masks


@ROI_MASK_HEAD_REGISTRY.register()
class RankingMaskHead(MaskRCNNConvUpsampleHead):
    """Detectron2's mask head with He initialization, including the last layer.

    As in the published ranking detectors, the last layer is initialized like the others (He et al.,
    ICCV 2015); its weights are larger than with Detectron2's standard deviation of .001. The losses
    are computed by :class:`ranking_det.modeling.RankingROIHeads`.

    Args:
        input_shape: the shape of the pooled features.
        arguments: ``num_classes`` (1 for class-agnostic masks), ``conv_dims`` and ``conv_norm`` of
            Detectron2's mask head.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, **arguments: Any) -> None:
        super().__init__(input_shape, **arguments)
        c2_msra_fill(self.predictor)


class CascadeMaskHeads(nn.ModuleList):
    """Mask heads of the stages of a cascade; their masks are averaged at inference."""

    def forward(self, features: Tensor, instances: list[Instances]) -> list[Instances]:
        """Predict masks, as a Detectron2 mask head does in evaluation mode.

        Args:
            features: (n, C, H, W), pooled at the boxes of all n instances.
            instances: one Instances per image, with ``pred_classes``.

        Returns:
            The same instances with ``pred_masks`` (n_i, 1, S, S), the mean of the probabilities of
            all heads, in [0, 1].
        """
        masks = [[image.pred_masks for image in head(features, instances)] for head in self]
        for image, *stages in zip(instances, *masks, strict=True):
            image.pred_masks = torch.stack(stages).mean(dim=0)
        return instances


def sample_mask_positives(gt_index: Tensor, targets: Sequence[Instances], max_masks: int) -> Tensor:
    """Choose the positives whose masks are trained, at random if there are more than ``max_masks``.

    A positive is left out if its object has an empty mask, because the shape is then unknown.

    Args:
        gt_index: (P,) int64, the object of each positive, counted over all images.
        targets: one Instances per image, with ``gt_masks``.
        max_masks: the largest Q, of all images together, >= 0.

    Returns:
        (Q,) int64 in [0, P), ascending.

    Raises:
        ValueError: there are objects, but no ``gt_masks``.
    """
    check_masks_exist(targets)
    has_mask = [torch.zeros(0, dtype=torch.bool, device=gt_index.device)]
    has_mask += [o.gt_masks.nonempty().to(gt_index.device) for o in targets if len(o)]
    return sample_masks(torch.nonzero(torch.cat(has_mask)[gt_index]).squeeze(1), max_masks)


def select_class(logits: Tensor, classes: Tensor) -> Tensor:
    """Select the mask of each positive's class; class-agnostic masks are returned unchanged.

    Args:
        logits: (Q, K, S, S), or (Q, 1, S, S) for class-agnostic masks.
        classes: (Q,) int64 in [0, K).

    Returns:
        (Q, S, S), with gradient.
    """
    if logits.shape[1] == 1:
        return logits[:, 0]
    return logits[torch.arange(len(logits), device=logits.device), classes]


def crop_masks(
    rois: Sequence[Tensor], gt_index: Sequence[Tensor], targets: Sequence[Instances], size: int
) -> Tensor:
    """Crop the ground-truth mask of each positive to its proposal and resize it to S x S.

    Args:
        rois: one tensor (Q_i, 4) per image, the proposals, XYXY in pixels.
        gt_index: one int64 tensor (Q_i,) per image, the object of each proposal, counted over all
            images.
        targets: one Instances per image, with ``gt_masks``.
        size: S, >= 1.

    Returns:
        (Q, S, S) float32, 0 or 1.
    """
    masks, offset = [torch.zeros(0, size, size, device=rois[0].device)], 0
    for boxes, index, objects in zip(rois, gt_index, targets, strict=True):
        if len(boxes):
            masks.append(_crop(objects.gt_masks, index - offset, boxes, size).float())
        offset += len(objects)
    return torch.cat(masks)


def _crop(masks: PolygonMasks | BitMasks, index: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crop the mask of the object ``index`` to each box (n, 4): (n, size, size) bool."""
    if isinstance(masks, PolygonMasks):
        return masks[index].crop_and_resize(boxes, size)
    # The same as BitMasks.crop_and_resize, but without copying a whole image's mask for every box.
    full_masks = masks.tensor.to(boxes.device, torch.float32)[:, None]
    rois = torch.cat([index[:, None].to(boxes), boxes], dim=1)
    return roi_align(full_masks, rois, size, 1.0, 0, True)[:, 0] >= 0.5
