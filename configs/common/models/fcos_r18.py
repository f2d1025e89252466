"""FCOS with ResNet-18 for small images on a CPU; same backbone as retinanet_r18.py."""

from detectron2.config import LazyCall as L

from ranking_det.assigners import FCOS
from ranking_det.modeling import DenseHead, DenseInference, RankingFCOS

from ..criteria import rank_sort
from .backbones import IMAGENET_RGB, fpn_r18

model = L(RankingFCOS)(
    backbone=fpn_r18(),
    head=L(DenseHead)(
        in_channels="${..backbone.out_channels}",
        num_classes="${..num_classes}",
        num_anchors=1,
        num_convs=2,
        num_scales=5,
    ),
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    # These are the paper's size ranges, which put nearly all of the shapes on the finest level.
    # Smaller ranges give half as many positives, because the coarser levels have few cells.
    assigner=L(FCOS)(),
    criterion=rank_sort(),
    num_classes=80,
    inference=L(DenseInference)(score_thresh=0.0, nms_thresh=0.6),
    **IMAGENET_RGB,
)
