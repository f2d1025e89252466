"""FCOS: a dense detector on points."""

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
"""A point stands for a square of this many strides, so that IoU assigners can use it too."""

MAX_FACTOR = 1000 / 16
"""Largest factor of a distance, against overflow; Detectron2's box coder has the same."""


class PointTransform:
    """Distances (left, top, right, bottom) from a point to a box, as FCOS predicts them.

    distance = side / 2 x exp(output), with the side of the point's square: outputs of 0 are the
    square itself. FCOS (section 3.1) has the exponential of the output and a learnable factor per
    level in it; the unit of the level is given here, as its authors' later versions have it.
    """

    def get_deltas(self, points: Tensor, boxes: Tensor) -> Tensor:
        """Encode boxes (n, 4) XYXY that contain the centres of points (n, 4) XYXY: (n, 4)."""
        centers = (points[:, :2] + points[:, 2:]) / 2
        half = (points[:, 2:] - points[:, :2]) / 2
        distances = torch.cat([centers - boxes[:, :2], boxes[:, 2:] - centers], dim=1)
        return (distances / half.repeat(1, 2)).log()

    def apply_deltas(self, outputs: Tensor, points: Tensor) -> Tensor:
        """Decode outputs (n, 4) at points (n, 4) XYXY: boxes (n, 4) XYXY in pixels."""
        points = points.to(outputs.dtype)
        centers = (points[:, :2] + points[:, 2:]) / 2
        half = (points[:, 2:] - points[:, :2]) / 2
        distances = outputs.clamp(max=math.log(MAX_FACTOR)).exp() * half.repeat(1, 2)
        return torch.cat([centers - distances[:, :2], centers + distances[:, 2:]], dim=1)


@META_ARCH_REGISTRY.register()
class RankingFCOS(RankingDenseDetector):
    """A detector on points (Tian et al., ICCV 2019), one per cell.

    The points lie in the middle of their cells. The paper assigns with
    :class:`ranking_det.assigners.FCOS`; for IoU assigners a point is a square of 8 strides.

    Args:
        backbone: see :class:`RankingDenseDetector`, which takes the other arguments. The head has
            one anchor per cell; the paper's has a factor per level (``num_scales``), and a
            centreness branch with losses that do not rank. The criterion's box loss must be one on
            decoded boxes.
        head_in_features: names of the backbone's features for the head, the finest first.
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
        """See :class:`DetectorInterface`; the boxes of points mean nothing."""
        return [
            positives._replace(are_points=True, description="the points that are to find it")
            for positives in super().find_positives(batched_inputs)
        ]
