"""FCOS for small images on a CPU, with the backbone of retinanet_r18.py."""

from detectron2.config import LazyCall as L

from ranking_det.assigners import FCOS
from ranking_det.modeling import DenseHead, DenseInference, RankingFCOS

from .criteria import rank_sort
from .retinanet_r18 import model as retinanet

model = L(RankingFCOS)(
    backbone=retinanet.backbone,
    head=L(DenseHead)(
        in_channels="${..backbone.out_channels}",
        num_classes="${..num_classes}",
        num_anchors=1,
        num_convs=2,
        num_scales=5,
    ),
    head_in_features=retinanet.head_in_features,
    # The paper's ranges: nearly all of these objects are for the finest level. Smaller ranges would
    # leave half as many positives, on levels of a few cells.
    assigner=L(FCOS)(),
    criterion=rank_sort,
    num_classes=80,
    inference=L(DenseInference)(score_thresh=0.0, nms_thresh=0.6),
    pixel_mean=retinanet.pixel_mean,
    pixel_std=retinanet.pixel_std,
    input_format="RGB",
)
