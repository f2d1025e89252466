"""Convolutional head of dense detectors: class logits, box outputs and an optional branch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn

from ranking_det.checks import check_integer
from ranking_det.modeling.feature_maps import MapHead, MapPredictions
from ranking_det.modeling.initialization import initialize_normal, prior_logit

__all__ = ["DenseHead"]


class DenseHead(MapHead):
    """The head of RetinaNet and FCOS: a class tower and a box tower, shared by all levels.

    See RetinaNet (Lin et al., ICCV 2017). Without normalization, the parameters have the names and
    shapes of Detectron2's RetinaNetHead, so its checkpoints load.

    Args:
        in_channels: channels of every feature level, >= 1.
        num_classes: K, >= 1.
        num_anchors: A, anchors per cell, the same on every level, >= 1.
        num_convs: number of 3x3 convolutions in each tower, with ``in_channels`` channels, >= 0.
        norm: normalization in the towers, a name for Detectron2's ``get_norm``; ``"GN"`` is group
            normalization with 32 groups, ``""`` is none.
        prior_prob: initial score of every class, in (0, 1).
        num_scales: number of learnable factors of the box outputs, one per level; 0 for none.
        branch: add an IoU or centerness branch: one more logit per anchor, from the box tower.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        num_anchors: int,
        num_convs: int = 4,
        norm: str = "",
        prior_prob: float = 0.01,
        num_scales: int = 0,
        branch: bool = False,
    ) -> None:
        super().__init__()
        check_integer("num_convs", num_convs, 0)
        check_integer("num_scales", num_scales, 0)
        self.num_classes = num_classes
        self.num_anchors = num_anchors
        self.cls_subnet = make_tower(in_channels, num_convs, norm)
        self.bbox_subnet = make_tower(in_channels, num_convs, norm)
        self.cls_score = nn.Conv2d(in_channels, num_anchors * num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(in_channels, num_anchors * 4, 3, padding=1)
        self.branch = nn.Conv2d(in_channels, num_anchors, 3, padding=1) if branch else None
        self.scales = nn.Parameter(torch.ones(num_scales)) if num_scales else None
        initialize_normal(self)
        nn.init.constant_(self.cls_score.bias, prior_logit(prior_prob))

    def forward(self, features: Sequence[Tensor]) -> MapPredictions:
        """Predict class logits, box outputs and the branch on every level.

        Args:
            features: one tensor (N, in_channels, H_l, W_l) per level, the finest first.

        Returns:
            For each level the logits (N, A K, H_l, W_l), the box outputs (N, A 4, H_l, W_l), and
            the logits of the branch (N, A, H_l, W_l), if there is one.

        Raises:
            ValueError: the number of levels is not ``num_scales``.
        """
        if self.scales is not None and len(self.scales) != len(features):
            raise ValueError(
                f"features: expected {len(self.scales)} levels, as num_scales has, got "
                f"{len(features)}"
            )
        logits, outputs, branch = [], [], []
        for level, feature in enumerate(features):
            logits.append(self.cls_score(self.cls_subnet(feature)))
            tower = self.bbox_subnet(feature)
            output = self.bbox_pred(tower)
            outputs.append(output if self.scales is None else output * self.scales[level])
            if self.branch is not None:
                branch.append(self.branch(tower))
        return MapPredictions(logits, outputs, branch or None)


def make_tower(channels: int, num_convs: int, norm: str) -> nn.Sequential:
    """Stack 3x3 convolutions, each with an optional normalization and a ReLU.

    Args:
        channels: channels of the input and of all layers, >= 1.
        num_convs: number of convolutions, >= 0.
        norm: normalization, a name for Detectron2's ``get_norm``; "" is none.

    Returns:
        The layers.
    """
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        layers.append(nn.Conv2d(channels, channels, 3, padding=1, bias=not norm))
        if norm:
            layers.append(get_norm(norm, channels))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
