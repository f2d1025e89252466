"""Detectors; importing this package registers them in Detectron2's registries.

Detectron2's defaults are left as they are.
"""

from ranking_det.modeling.dense_head import DenseHead
from ranking_det.modeling.retinanet import RankingRetinaNet
from ranking_det.modeling.yaml_config import add_ranking_config

__all__ = ["DenseHead", "RankingRetinaNet", "add_ranking_config"]
