"""RetinaNet with ResNet-18 for small images on a CPU: from scratch, FPN with 64 channels."""

from detectron2.config import LazyCall as L
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform

from ranking_det.assigners import ATSS
from ranking_det.modeling import DenseHead, DenseInference, RankingRetinaNet

from ..criteria import rank_sort
from .backbones import IMAGENET_RGB, fpn_r18

model = L(RankingRetinaNet)(
    backbone=fpn_r18(),
    head=L(DenseHead)(
        in_channels="${..backbone.out_channels}",
        num_classes="${..num_classes}",
        num_anchors=3,
        num_convs=2,
    ),
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    anchor_generator=L(DefaultAnchorGenerator)(
        # Three scales of a square anchor, 2 to 3.2 strides. The shapes are 9 to 125 px at 160 px.
        sizes=[[2 * x, 2 * x * 2 ** (1 / 3), 2 * x * 2 ** (2 / 3)] for x in (8, 16, 32, 64, 128)],
        aspect_ratios=[1.0],
        strides=[8, 16, 32, 64, 128],
        offset=0.0,
    ),
    box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
    assigner=L(ATSS)(),
    criterion=rank_sort(),
    num_classes=80,
    # The scores of ranking losses are free up to a shift: after a short run, a threshold would
    # delete good detections.
    inference=L(DenseInference)(score_thresh=0.0, nms_thresh=0.6),
    **IMAGENET_RGB,
)
