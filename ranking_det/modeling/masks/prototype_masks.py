"""YOLACT's mask branch: prototypes, mask targets, a semantic segmentation loss, predicted masks.

Shapes: N images, P positives, Q positives whose masks are trained, n detections of one image, C
prototypes of h x w pixels, K classes, G objects of all images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional

from ranking_det.checks import check_integer
from ranking_det.criteria import MaskTargets
from ranking_det.layers import pixels_inside
from ranking_det.modeling.dense.head import make_tower
from ranking_det.modeling.feature_maps import resize
from ranking_det.modeling.initialization import initialize_xavier
from ranking_det.modeling.mask_targets import draw_bitmaps, sample_masks
from ranking_det.row_blocks import blocks

__all__ = ["PrototypeMasks"]

MARGIN = 1.0
"""Masks are cropped to boxes that are grown by this many of their pixels on each side."""

OUTSIDE = -100.0
"""Logit of the pixels outside the crop. Their probability is 0, and the cross entropy is finite."""

MASK_PIXELS = 1 << 24
"""Pixels of the predicted masks that are resized at a time: 64 MiB in float32."""


class PrototypeMasks(nn.Module):
    """Masks as linear combinations of prototypes (Bolya et al., YOLACT, ICCV 2019, section 3).

    A network on the finest feature predicts C prototypes for the whole image. The mask of an anchor
    is the sigmoid of the sum of the prototypes, weighted by the anchor's coefficients, and is
    cropped to a box: the object's in training, the predicted one at inference.

    Args:
        in_channels: channels of the feature and of the layers, >= 1.
        num_classes: K, >= 1.
        num_prototypes: C, >= 1.
        num_convs: 3x3 convolutions before the prototypes are upsampled to twice the size of the
            feature, >= 0.
        norm: normalization of the 3x3 convolutions, a name for Detectron2's ``get_norm``; "" is
            none, as in the paper.
        semantic: whether training has a semantic segmentation loss on the feature, for which a
            1x1 convolution is added.
        max_masks: train the masks of at most this many positives of an image, chosen at random,
            >= 1; None for all. Each takes memory for several maps of h x w pixels.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        num_prototypes: int = 32,
        num_convs: int = 3,
        norm: str = "",
        semantic: bool = False,
        max_masks: int | None = None,
    ) -> None:
        super().__init__()
        check_integer("num_prototypes", num_prototypes, 1)
        check_integer("num_convs", num_convs, 0)
        if max_masks is not None:
            check_integer("max_masks", max_masks, 1)
        self.num_classes = num_classes
        self.num_prototypes = num_prototypes
        self.max_masks = max_masks
        self.protonet = nn.Sequential(
            *make_tower(in_channels, num_convs, norm),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            *make_tower(in_channels, 1, norm),
            nn.Conv2d(in_channels, num_prototypes, 1),
            nn.ReLU(inplace=True),
        )
        self.semantic = nn.Conv2d(in_channels, num_classes, 1) if semantic else None
        initialize_xavier(self)

    def forward(self, feature: Tensor) -> Tensor:
        """Predict the prototypes.

        Args:
            feature: (N, in_channels, H, W), the finest feature.

        Returns:
            (N, C, h, w) >= 0, with h = 2 H and w = 2 W.
        """
        prototypes: Tensor = self.protonet(feature)
        return prototypes

    def make_targets(
        self,
        prototypes: Tensor,
        coefficients: Tensor,
        image: Tensor,
        gt_index: Tensor,
        objects: Sequence[Instances],
        padded_size: tuple[int, int],
    ) -> MaskTargets:
        """Predict the masks of positives, and make their ground truth.

        A positive is left out if its object has no mask, or a mask that is too small for a pixel of
        the prototypes. Unlike this, the paper's code trains such masks to be empty.

        Args:
            prototypes: (N, C, h, w).
            coefficients: (P, C), with gradient.
            image: (P,) int64, ascending, the image of each positive.
            gt_index: (P,) int64, the object of each positive, counted over all images.
            objects: one Instances per image, with ``gt_boxes`` and ``gt_masks``.
            padded_size: (height, width) in pixels of the batch, which the prototypes cover.

        Returns:
            Logits and ground-truth masks of Q positives, cropped to the boxes of their objects.

        Raises:
            ValueError: there are objects, but no ``gt_masks``.
        """
        height, width = prototypes.shape[-2:]
        gt_masks = shrink_masks(objects, padded_size, (height, width))
        scale = torch.tensor([width / padded_size[1], height / padded_size[0]] * 2)
        boxes = torch.cat([instances.gt_boxes.tensor for instances in objects])
        boxes = boxes * scale.to(boxes)
        counts = image.bincount(minlength=len(objects)).tolist()
        index = self._sample(gt_masks.flatten(1).any(dim=1)[gt_index], counts)
        counts = image[index].bincount(minlength=len(objects)).tolist()
        logits = torch.cat(
            [
                torch.einsum("qc,chw->qhw", weights, maps)
                for weights, maps in zip(coefficients[index].split(counts), prototypes, strict=True)
            ]
        )
        rows = gt_index[index]
        inside = pixels_inside(boxes[rows], height, width, margin=MARGIN)
        sides = boxes[rows, 2:] - boxes[rows, :2]
        return MaskTargets(
            logits=logits.masked_fill(~inside, OUTSIDE),
            masks=(gt_masks[rows] & inside).to(logits.dtype),
            index=index,
            # At least one pixel: the loss of a tiny object would be huge.
            areas=sides.prod(dim=1).clamp(min=1.0),
        )

    def _sample(self, has_mask: Tensor, counts: list[int]) -> Tensor:
        """Choose the positives whose masks are trained, given a bool (P,) and P_i per image."""
        index = torch.nonzero(has_mask).squeeze(1)
        if self.max_masks is None or max(counts) <= self.max_masks:
            return index
        samples, first = [], 0
        for count in counts:
            in_image = (index >= first) & (index < first + count)
            samples.append(sample_masks(index[in_image], self.max_masks))
            first += count
        return torch.cat(samples)

    def semantic_loss(
        self, feature: Tensor, objects: Sequence[Instances], padded_size: tuple[int, int]
    ) -> Tensor:
        """Compute the semantic segmentation loss (section 4.2 of the paper).

        Args:
            feature: (N, in_channels, H, W), the finest feature.
            objects: one Instances per image, with ``gt_classes`` and ``gt_masks``.
            padded_size: (height, width) in pixels of the batch, which the feature covers.

        Returns:
            The binary cross entropy of each class and cell, summed over the classes and averaged
            over the cells; a scalar with gradient. Without the semantic segmentation, 0.

        Raises:
            ValueError: there are objects, but no ``gt_masks``.
        """
        if self.semantic is None:
            return feature.new_zeros(())
        logits = self.semantic(feature).float()
        size = logits.shape[-2:]
        masks = shrink_masks(objects, padded_size, size)
        classes = [instances.gt_classes for instances in objects]
        # Image i and class k have the map i K + k, the union of the masks of the class.
        maps = torch.cat([i * self.num_classes + index for i, index in enumerate(classes)])
        targets = torch.zeros_like(logits).flatten(0, 1).index_add_(0, maps, masks.to(logits.dtype))
        return functional.binary_cross_entropy_with_logits(
            logits, targets.clamp(max=1).view_as(logits), reduction="sum"
        ) / (len(logits) * size[0] * size[1])

    def predict(
        self,
        prototypes: Tensor,
        coefficients: Tensor,
        boxes: Tensor,
        padded_size: tuple[int, int],
        image_size: tuple[int, int],
    ) -> Tensor:
        """Predict the masks of detections, cropped to their boxes.

        Args:
            prototypes: (C, h, w), those of the image.
            coefficients: (n, C).
            boxes: (n, 4) XYXY in pixels of the image.
            padded_size: (height, width) in pixels of the batch, which the prototypes cover.
            image_size: (height, width) in pixels of the image without padding.

        Returns:
            (n, h', w') probabilities in the image without padding; h x w pixels if there is none.
        """
        height, width = prototypes.shape[-2:]
        masks = torch.einsum("nc,chw->nhw", coefficients.float(), prototypes.float()).sigmoid()
        scale = torch.tensor([width / padded_size[1], height / padded_size[0]] * 2)
        inside = pixels_inside(boxes * scale.to(boxes), height, width, margin=MARGIN)
        masks = masks.masked_fill(~inside, 0.0)
        if padded_size == image_size:
            return masks
        # Resize to the padded size first, to cut off the padding.
        return resize(masks[None], padded_size)[0, :, : image_size[0], : image_size[1]]


def resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize masks bilinearly to the size of an image, and threshold them.

    Args:
        masks: (n, h, w) probabilities.
        size: (height, width) of the image.

    Returns:
        (n, height, width) bool, True above 1/2.
    """
    parts = blocks(len(masks), size[0] * size[1], MASK_PIXELS)
    resized = [resize(masks[rows][None], size)[0] > 0.5 for rows in parts]
    return torch.cat([masks.new_zeros(0, *size, dtype=torch.bool), *resized])


def shrink_masks(
    objects: Sequence[Instances], padded_size: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Resize the masks of the objects of all images, and threshold them.

    Args:
        objects: one Instances per image, with ``gt_masks``.
        padded_size: (height, width) in pixels of the batch.
        size: (h, w), to which the padded image is resized.

    Returns:
        (G, h, w) bool, on the device of the objects' boxes.

    Raises:
        ValueError: there are objects, but no ``gt_masks``.
    """
    shrunk = []
    for instances in objects:
        bitmaps = draw_bitmaps(instances, instances.gt_boxes.device).float()
        padding = (0, padded_size[1] - bitmaps.shape[2], 0, padded_size[0] - bitmaps.shape[1])
        shrunk.append(resize(functional.pad(bitmaps, padding)[None], size)[0] > 0.5)
    return torch.cat(shrunk)
