"""Masks of positive proposals, in training.

Shapes: N images, P positives of all of them, K classes, S x S pixels of a predicted mask.
"""

from __future__ import annotations

from collections.abc import Sequence

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
        num_classes: K, or 1 for masks that are the same for all classes.
        conv_dims: channels of the convolutions, the last of them the transposed one.
        conv_norm: normalisation, as Detectron2's ``get_norm`` names it.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        conv_dims: Sequence[int],
        conv_norm: str = "",
        vis_period: int = 0,
    ) -> None:
        super().__init__(
            input_shape,
            num_classes=num_classes,
            conv_dims=list(conv_dims),
            conv_norm=conv_norm,
            vis_period=vis_period,
        )
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
        masks = []
        for head in self:
            masks.append([own.pred_masks for own in head(features, instances)])
        for own, *stages in zip(instances, *masks, strict=True):
            own.pred_masks = torch.stack(stages).mean(dim=0)
        return instances


def keep_masked(positives: Sequence[Instances], targets: Sequence[Instances]) -> list[Instances]:
    """Drop the positives of objects without a mask, of which nothing is known.

    Args:
        positives: per image, with ``gt_index``, the image's object.
        targets: per image ``gt_masks``.

    Raises:
        ValueError: there are objects, but no ``gt_masks``.
    """
    kept = []
    for own, objects in zip(positives, targets, strict=True):
        if len(own):
            if not objects.has("gt_masks"):
                raise ValueError(
                    "targets: expected gt_masks, which the data loader gives with "
                    "masks=True (BoxMapper) or use_instance_mask=True (DatasetMapper)"
                )
            known = objects.gt_masks.nonempty().to(own.gt_index.device)[own.gt_index]
            own = own[torch.nonzero(known).squeeze(1)]
        kept.append(own)
    return kept


def limit_rois(positives: Sequence[Instances], max_rois: int) -> list[Instances]:
    """Drop random instances where all images together have more than ``max_rois``.

    Each keeps its fields, and the order within an image stays.
    """
    sizes = [len(own) for own in positives]
    if sum(sizes) <= max_rois:
        return list(positives)
    kept = torch.zeros(sum(sizes), dtype=torch.bool)
    kept[torch.randperm(sum(sizes))[:max_rois]] = True
    # Integers, which every kind of field, such as polygons, can be indexed with.
    return [
        own[torch.nonzero(rows).squeeze(1).to(own.proposal_boxes.device)]
        for own, rows in zip(positives, kept.split(sizes), strict=True)
    ]


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


def cut_masks(positives: Sequence[Instances], targets: Sequence[Instances], size: int) -> Tensor:
    """What the mask of each positive's object looks like in its proposal.

    Args:
        positives: per image ``proposal_boxes`` and ``gt_index``, the image's object.
        targets: per image ``gt_masks``.
        size: S.

    Returns:
        (P, S, S) float32, 0 or 1.
    """
    masks: list[Tensor] = []
    for own, objects in zip(positives, targets, strict=True):
        if not len(own):
            continue
        masks.append(_cut(objects.gt_masks, own.gt_index, own.proposal_boxes.tensor, size).float())
    device = positives[0].proposal_boxes.device
    return torch.cat([*masks, torch.zeros(0, size, size, device=device)])


def _cut(masks: PolygonMasks | BitMasks, index: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Of each box (P, 4) the mask (size, size) of the object that its index names, bool."""
    if isinstance(masks, PolygonMasks):
        return masks[index].crop_and_resize(boxes, size)
    # As BitMasks cuts them, but without a copy of a whole image's mask for every box.
    whole = masks.tensor.to(boxes.device, torch.float32)[:, None]
    rois = torch.cat([index[:, None].to(boxes), boxes], dim=1)
    return roi_align(whole, rois, size, 1.0, 0, True)[:, 0] >= 0.5
