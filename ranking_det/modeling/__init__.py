"""Detectors; importing this package registers them in Detectron2's registries.

Detectron2's defaults are left as they are.
"""

from ranking_det.modeling.backbones import ExtraLevels, FrozenStatisticsBatchNorm2d
from ranking_det.modeling.box_predictor import RankingBoxPredictor
from ranking_det.modeling.carafe_fpn import CARAFEFPN, build_resnet_carafe_fpn_backbone
from ranking_det.modeling.cascade import RankingCascadeROIHeads
from ranking_det.modeling.dense_detector import RankingDenseDetector
from ranking_det.modeling.dense_head import DenseHead
from ranking_det.modeling.fcos import PointTransform, RankingFCOS
from ranking_det.modeling.inference import DenseInference, RawDetections
from ranking_det.modeling.mask_head import RankingMaskHead
from ranking_det.modeling.retinanet import RankingRetinaNet
from ranking_det.modeling.roi_heads import RankingROIHeads
from ranking_det.modeling.rpn import RankingRPN, RankingRPNHead
from ranking_det.modeling.sampling import NegativeCap, RandomSampler
from ranking_det.modeling.test_time_augmentation import DenseDetectorWithTTA
from ranking_det.modeling.yaml_config import COMPONENTS, add_ranking_config

__all__ = [
    "CARAFEFPN",
    "COMPONENTS",
    "DenseDetectorWithTTA",
    "DenseHead",
    "DenseInference",
    "ExtraLevels",
    "FrozenStatisticsBatchNorm2d",
    "NegativeCap",
    "PointTransform",
    "RandomSampler",
    "RankingBoxPredictor",
    "RankingCascadeROIHeads",
    "RankingDenseDetector",
    "RankingFCOS",
    "RankingMaskHead",
    "RankingROIHeads",
    "RankingRPN",
    "RankingRPNHead",
    "RankingRetinaNet",
    "RawDetections",
    "add_ranking_config",
    "build_resnet_carafe_fpn_backbone",
]
