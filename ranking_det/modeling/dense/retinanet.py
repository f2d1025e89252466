"""RetinaNet: a dense detector on anchors."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, build_anchor_generator
from detectron2.modeling.box_regression import Box2BoxTransform

from ranking_det.modeling.dense.detector import RankingDenseDetector


@META_ARCH_REGISTRY.register()
class RankingRetinaNet(RankingDenseDetector):
    """A detector on anchors (Lin et al., ICCV 2017); its arguments are those of the base class.

    Any number of anchors per cell, the same on every level: 9 in the paper; 3 scales of one square
    or a single one of 8 strides with ATSS and PAA.
    """

    @classmethod
    def anchors_from_config(cls, cfg: CfgNode, shapes: list[ShapeSpec]) -> dict[str, Any]:
        """Those of MODEL.ANCHOR_GENERATOR and MODEL.RETINANET."""
        return {
            "anchor_generator": build_anchor_generator(cfg, shapes),
            "box2box_transform": Box2BoxTransform(weights=cfg.MODEL.RETINANET.BBOX_REG_WEIGHTS),
        }
