"""RetinaNet: a dense detector on anchors."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_anchor_generator
from detectron2.modeling.box_regression import Box2BoxTransform

from ranking_det.modeling.dense.detector import RankingDenseDetector
from ranking_det.modeling.yaml_keys import dense_arguments


@META_ARCH_REGISTRY.register()
class RankingRetinaNet(RankingDenseDetector):
    """A detector on anchors (Lin et al., ICCV 2017); its arguments are those of the base class.

    Any number of anchors per cell, the same on every level: 9 in the paper; 3 scales of one square
    or a single one of 8 strides with ATSS and PAA.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Translate a yaml config; see :func:`ranking_det.modeling.add_ranking_config`."""
        node = cfg.MODEL.RETINANET

        def generate(backbone: Any) -> Any:
            shapes = backbone.output_shape()
            return build_anchor_generator(cfg, [shapes[name] for name in node.IN_FEATURES])

        arguments = dense_arguments(cfg, generate)
        return arguments | {"box2box_transform": Box2BoxTransform(weights=node.BBOX_REG_WEIGHTS)}
