"""Detectron2 models with ranking losses; importing this package registers them.

Detectron2's config defaults do not change.
"""

from ranking_det.modeling.backbones.backbone_parts import ExtraLevels, FrozenStatisticsBatchNorm2d
from ranking_det.modeling.backbones.bilinear_fpn import (
    BilinearFPN,
    build_resnet_bilinear_fpn_backbone,
)
from ranking_det.modeling.backbones.carafe_fpn import CARAFEFPN, build_resnet_carafe_fpn_backbone
from ranking_det.modeling.backbones.res2net import DeepStem, Res2NetBlock
from ranking_det.modeling.backbones.timm_backbone import TimmBackbone
from ranking_det.modeling.dense.detector import RankingDenseDetector
from ranking_det.modeling.dense.fcos import PointTransform, RankingFCOS
from ranking_det.modeling.dense.head import DenseHead
from ranking_det.modeling.dense.inference import DenseInference
from ranking_det.modeling.dense.retinanet import RankingRetinaNet
from ranking_det.modeling.interface import DetectorInterface, Positives, interface_of
from ranking_det.modeling.masks.prototype_masks import PrototypeMasks
from ranking_det.modeling.masks.solov2 import RankingSOLOv2
from ranking_det.modeling.masks.solov2_head import SOLOv2Head
from ranking_det.modeling.masks.solov2_inference import SOLOv2Inference
from ranking_det.modeling.masks.yolact import RankingYOLACT
from ranking_det.modeling.masks.yolact_head import YOLACTHead
from ranking_det.modeling.postprocessing import RawDetections
from ranking_det.modeling.rcnn.adapter import RCNNAdapter
from ranking_det.modeling.rcnn.box_predictor import RankingBoxPredictor
from ranking_det.modeling.rcnn.cascade import RankingCascadeROIHeads
from ranking_det.modeling.rcnn.mask_head import RankingMaskHead
from ranking_det.modeling.rcnn.roi_heads import RankingROIHeads
from ranking_det.modeling.rcnn.rpn import RankingRPN, RankingRPNHead
from ranking_det.modeling.rcnn.sampling import NegativeCap, RandomSampler
from ranking_det.modeling.yaml_keys import COMPONENTS, add_ranking_config

__all__ = [name for name, value in globals().items() if callable(value)]
