"""FCOS with ResNet-50 (Tian et al., ICCV 2019): P6 is computed from P5, and P7 after a ReLU.

As in the first version of the paper, all points inside an object's box are positive, and the
centerness branch lowers the scores near its edges. As in the authors' later versions, the branch is
on the box tower, the box loss is weighted by centerness, and the NMS threshold is .6.
"""

from detectron2.config import LazyCall as L

from ranking_det.assigners import FCOS
from ranking_det.modeling import DenseHead, DenseInference, RankingFCOS

from ..criteria import fcos_focal
from .backbones import IMAGENET_RGB, fpn_r50

model = L(RankingFCOS)(
    backbone=fpn_r50("p5", relu=True),
    head=L(DenseHead)(
        in_channels="${..backbone.out_channels}",
        num_classes="${..num_classes}",
        num_anchors=1,
        norm="GN",
        num_scales=5,
        branch=True,
    ),
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    assigner=L(FCOS)(center_radius=0.0),
    criterion=fcos_focal(),
    num_classes=80,
    inference=L(DenseInference)(score_thresh=0.05, topk_by="anchor", nms_thresh=0.6),
    **IMAGENET_RGB,
)
