"""FCOS: an anchor-free dense detector with one point per cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from torch import Tensor

from ranking_det.modeling.dense.detector import RankingDenseDetector
from ranking_det.modeling.interface import Positives

POINT_SIZE = 8
"""Side in strides of the square that represents a point for IoU assigners."""

MAX_FACTOR = 1000 / 16
"""Largest factor of a distance, which prevents overflow, as in Detectron2's box coder."""


class PointTransform:
    """Box coder of FCOS: distances from a point to the left, top, right and bottom of a box.

    distance = side / 2 x exp(output), where ``side`` is the side of the point's square. Outputs of
    0 decode to the square itself. FCOS has the same exponential (section 3.1) and scales the output
    by a learnable factor per level. Unlike in the paper, distances are also relative to the level's
    stride, as in the authors' later versions of FCOS.
    """

    def get_deltas(self, points: Tensor, boxes: Tensor) -> Tensor:
        """Encode boxes relative to points.

        Args:
            points: (n, 4) XYXY in pixels, the squares of the points.
            boxes: (n, 4) XYXY in pixels; each contains the center of its point.

        Returns:
            (n, 4), the logarithms of the relative distances.
        """
        centers = (points[:, :2] + points[:, 2:]) / 2
        half = (points[:, 2:] - points[:, :2]) / 2
        distances = torch.cat([centers - boxes[:, :2], boxes[:, 2:] - centers], dim=1)
        return (distances / half.repeat(1, 2)).log()

    def apply_deltas(self, outputs: Tensor, points: Tensor) -> Tensor:
        """Decode raw box outputs to boxes.

        Args:
            outputs: (n, 4).
            points: (n, 4) XYXY in pixels, the squares of the points.

        Returns:
            (n, 4) XYXY in pixels.
        """
        points = points.to(outputs.dtype)
        centers = (points[:, :2] + points[:, 2:]) / 2
        half = (points[:, 2:] - points[:, :2]) / 2
        distances = outputs.clamp(max=math.log(MAX_FACTOR)).exp() * half.repeat(1, 2)
        return torch.cat([centers - distances[:, :2], centers + distances[:, 2:]], dim=1)


@META_ARCH_REGISTRY.register()
class RankingFCOS(RankingDenseDetector):
    """FCOS (Tian et al., ICCV 2019), with one point in the middle of each cell.

    The paper's assigner is :class:`ranking_det.assigners.FCOS`. For IoU assigners, a point is a
    square with sides of 8 strides.

    Args:
        backbone: Detectron2 backbone.
        head_in_features: names of the backbone's features for the head, the finest first.
        arguments: the other arguments of :class:`RankingDenseDetector`, except the anchor
            generator and the box coder. The head has one anchor per cell. The paper's head has a
            factor per level (``num_scales``) and a centerness branch; heads for ranking
            losses have no branch. The criterion needs a box loss on decoded boxes.

    Raises:
        ValueError: the parts do not fit together.
    """

    @configurable
    def __init__(
        self, *, backbone: Backbone, head_in_features: Sequence[str], **arguments: Any
    ) -> None:
        shapes = backbone.output_shape()
        strides = [shapes[name].stride for name in head_in_features]
        sizes = [[POINT_SIZE * stride] for stride in strides]
        grid = DefaultAnchorGenerator(sizes=sizes, aspect_ratios=[1.0], strides=strides, offset=0.5)
        super().__init__(
            backbone=backbone,
            head_in_features=head_in_features,
            anchor_generator=grid,
            box2box_transform=PointTransform(),
            **arguments,
        )

    def find_positives(self, batched_inputs: Sequence[dict[str, Any]]) -> list[Positives]:
        """Find the positive points of each image; see :class:`DetectorInterface`."""
        return [
            positives._replace(are_points=True, description="the points matched to it")
            for positives in super().find_positives(batched_inputs)
        ]
