"""The convolutional head of dense detectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn

from ranking_det.checks import check_integer
from ranking_det.modeling.feature_maps import MapHead, MapPredictions
from ranking_det.modeling.initialization import prior_logit

__all__ = ["DenseHead"]


class DenseHead(MapHead):
    """Two towers of convolutions, shared by all levels, for class logits and box outputs.

    The head of RetinaNet (Lin et al., ICCV 2017). Without norm, parameters have the names and
    shapes of Detectron2's RetinaNetHead, so that its checkpoints load.

    Args:
        in_channels: channels of every feature level.
        num_classes: K.
        num_anchors: A, anchors per cell, the same on every level.
        num_convs: 3x3 convolutions in each tower, of ``in_channels`` channels, >= 0.
        norm: normalisation in the towers, as Detectron2's ``get_norm`` names it; ``"GN"`` is
            group normalisation of 32 groups, ``""`` is none.
        prior_prob: the score of every class at the start, in (0, 1).
        num_scales: the number of levels, for one learnable factor of the box outputs per level;
            0 for none.
        branch: add a third output per anchor, from the box tower: the logit of its IoU or
            centreness, as the criterion trains it.
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
        self.cls_subnet = self._tower(in_channels, num_convs, norm)
        self.bbox_subnet = self._tower(in_channels, num_convs, norm)
        self.cls_score = nn.Conv2d(in_channels, num_anchors * num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(in_channels, num_anchors * 4, 3, padding=1)
        self.branch = nn.Conv2d(in_channels, num_anchors, 3, padding=1) if branch else None
        self.scales = nn.Parameter(torch.ones(num_scales)) if num_scales else None
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.constant_(self.cls_score.bias, prior_logit(prior_prob))

    @staticmethod
    def _tower(channels: int, num_convs: int, norm: str) -> nn.Sequential:
        layers: list[nn.Module] = []
        for _ in range(num_convs):
            layers.append(nn.Conv2d(channels, channels, 3, padding=1, bias=not norm))
            if norm:
                layers.append(get_norm(norm, channels))
            layers.append(nn.ReLU(inplace=True))
        return nn.Sequential(*layers)

    def forward(self, features: Sequence[Tensor]) -> MapPredictions:
        """Predict on every level.

        Args:
            features: per level (N, in_channels, H_l, W_l), the finest first.

        Returns:
            Per level the logits, the box outputs, and with a branch its logits.

        Raises:
            ValueError: the head has scales for another number of levels.
        """
        if self.scales is not None and len(self.scales) != len(features):
            raise ValueError(
                f"num_scales is {len(self.scales)}, but there are {len(features)} levels"
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
