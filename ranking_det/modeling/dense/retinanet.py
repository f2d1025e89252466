"""RetinaNet: a dense detector with anchors."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, build_anchor_generator
from detectron2.modeling.box_regression import Box2BoxTransform

from ranking_det.modeling.dense.detector import RankingDenseDetector


@META_ARCH_REGISTRY.register()
class RankingRetinaNet(RankingDenseDetector):
    """RetinaNet (Lin et al., ICCV 2017); for arguments see :class:`RankingDenseDetector`.

    The number of anchors per cell is free, but the same on every level. The paper has 9. ATSS and
    PAA use squares of 3 scales, or one square of 8 strides.
    """

    @classmethod
    def anchors_from_config(cls, cfg: CfgNode, shapes: list[ShapeSpec]) -> dict[str, Any]:
        """Build the anchor generator and box coder from a yaml config; see the base class."""
        return {
            "anchor_generator": build_anchor_generator(cfg, shapes),
            "box2box_transform": Box2BoxTransform(weights=cfg.MODEL.RETINANET.BBOX_REG_WEIGHTS),
        }
