"""YOLACT's head: class logits, box outputs and mask coefficients of each anchor."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ranking_det.checks import check_integer
from ranking_det.modeling.dense.head import make_tower
from ranking_det.modeling.feature_maps import MapHead, MapPredictions
from ranking_det.modeling.initialization import initialize_xavier

__all__ = ["YOLACTHead"]


class YOLACTHead(MapHead):
    """The head of YOLACT, shared by all levels (Bolya et al., ICCV 2019, figure 4).

    A tower of 3x3 convolutions feeds three 3x3 convolutions: class logits, box outputs, and mask
    coefficients in [-1, 1]. The initial score of every class is 1/2, as in RS-YOLACT: ranking
    losses and cross entropy with hard negative mining need no lower one.

    Args:
        in_channels: channels of every feature level and of the tower, >= 1.
        num_classes: K, >= 1.
        num_anchors: A, anchors per cell, the same on every level, >= 1.
        num_coefficients: C, mask coefficients of an anchor, >= 1.
        num_convs: number of convolutions in the tower, >= 0.
        norm: normalization in the tower, a name for Detectron2's ``get_norm``; "" is none, as in
            the paper.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        num_anchors: int,
        num_coefficients: int = 32,
        num_convs: int = 1,
        norm: str = "",
    ) -> None:
        super().__init__()
        check_integer("num_coefficients", num_coefficients, 1)
        check_integer("num_convs", num_convs, 0)
        self.num_classes = num_classes
        self.num_anchors = num_anchors
        self.num_coefficients = num_coefficients
        self.scales = None
        self.branch = None
        self.tower = make_tower(in_channels, num_convs, norm)
        self.cls_score, self.bbox_pred, self.mask_pred = (
            nn.Conv2d(in_channels, num_anchors * size, 3, padding=1)
            for size in (num_classes, 4, num_coefficients)
        )
        initialize_xavier(self)

    def forward(self, features: Sequence[Tensor]) -> MapPredictions:
        """Predict class logits, box outputs and mask coefficients on every level.

        Args:
            features: one tensor (N, in_channels, H_l, W_l) per level, the finest first.

        Returns:
            For each level the logits (N, A K, H_l, W_l), the box outputs (N, A 4, H_l, W_l), and
            the mask coefficients (N, A C, H_l, W_l).
        """
        towers = [self.tower(feature) for feature in features]
        return MapPredictions(
            logits=[self.cls_score(tower) for tower in towers],
            outputs=[self.bbox_pred(tower) for tower in towers],
            coefficients=[self.mask_pred(tower).tanh() for tower in towers],
        )
