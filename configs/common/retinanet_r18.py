"""RetinaNet for small images on a CPU: ResNet-18 trained from scratch, FPN of 64 channels."""

from detectron2.config import LazyCall as L
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransform

from ranking_det.assigners import ATSS
from ranking_det.modeling import DenseHead, DenseInference, RankingRetinaNet

from .criteria import rank_sort

model = L(RankingRetinaNet)(
    backbone=L(FPN)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=64, norm="BN"),
            stages=L(ResNet.make_default_stages)(depth=18, norm="BN"),
            out_features=["res3", "res4", "res5"],
            freeze_at=0,
        ),
        in_features=["res3", "res4", "res5"],
        out_channels=64,
        top_block=L(LastLevelP6P7)(in_channels=512, out_channels="${..out_channels}"),
    ),
    head=L(DenseHead)(
        in_channels="${..backbone.out_channels}",
        num_classes="${..num_classes}",
        num_anchors=3,
        num_convs=2,
    ),
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    anchor_generator=L(DefaultAnchorGenerator)(
        # Three scales of one square, 2 to 3.2 strides: the shapes are 12 to 125 px at 160.
        sizes=[[2 * x, 2 * x * 2 ** (1 / 3), 2 * x * 2 ** (2 / 3)] for x in (8, 16, 32, 64, 128)],
        aspect_ratios=[1.0],
        strides=[8, 16, 32, 64, 128],
        offset=0.0,
    ),
    box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
    assigner=L(ATSS)(),
    criterion=rank_sort,
    num_classes=80,
    # A short run's ranking scores have no scale yet; a threshold would delete good detections.
    inference=L(DenseInference)(score_thresh=0.0, nms_thresh=0.6),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
)
