"""Detectors; importing this package registers them in Detectron2's registries.

Detectron2's defaults are left as they are.
"""

from ranking_det.modeling.backbones import ExtraLevels, FrozenStatisticsBatchNorm2d
from ranking_det.modeling.dense_detector import RankingDenseDetector
from ranking_det.modeling.dense_head import DenseHead
from ranking_det.modeling.fcos import PointTransform, RankingFCOS
from ranking_det.modeling.inference import DenseInference, RawDetections
from ranking_det.modeling.retinanet import RankingRetinaNet
from ranking_det.modeling.test_time_augmentation import DenseDetectorWithTTA
from ranking_det.modeling.yaml_config import COMPONENTS, add_ranking_config

__all__ = [
    "COMPONENTS",
    "DenseDetectorWithTTA",
    "DenseHead",
    "DenseInference",
    "ExtraLevels",
    "FrozenStatisticsBatchNorm2d",
    "PointTransform",
    "RankingDenseDetector",
    "RankingFCOS",
    "RankingRetinaNet",
    "RawDetections",
    "add_ranking_config",
]
