"""RetinaNet with ResNet-50 in the variants of the papers.

- ``model``: Lin et al., ICCV 2017. No norm in the head, P6 from C5, anchors of three scales and
  three aspect ratios.
- ``model_512``: AP and aLRP Loss at 512 x 512 pixels. Two scales.
- ``squares_512``: aLRP Loss with ATSS, and APE Loss. Two scales of a square anchor.
- ``atss``: Zhang et al., CVPR 2020. Group normalization in the head, a learnable scale of the box
  outputs per level, P6 from P5, one square anchor of 8 strides.

None has a ReLU before P7. Anchors are centered on the corners of the cells.
"""

from copy import deepcopy

from detectron2.config import LazyCall as L
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform

from ranking_det.assigners import ATSS, MaxIoU
from ranking_det.modeling import DenseHead, DenseInference, RankingRetinaNet

from ..criteria import atss_focal, retinanet_focal
from .backbones import IMAGENET_RGB, fpn_r50

STRIDES = [8, 16, 32, 64, 128]


def scales(count: int, base: int = 4) -> list[list[float]]:
    """Return the anchor sizes per level: from ``base`` strides up, ``count`` per octave."""
    return [[base * stride * 2 ** (i / count) for i in range(count)] for stride in STRIDES]


model = L(RankingRetinaNet)(
    backbone=fpn_r50("res5"),
    head=L(DenseHead)(
        in_channels="${..backbone.out_channels}",
        num_classes="${..num_classes}",
        num_anchors=9,
        norm="",
    ),
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    anchor_generator=L(DefaultAnchorGenerator)(
        sizes=scales(3), aspect_ratios=[0.5, 1.0, 2.0], strides=STRIDES, offset=0.0
    ),
    box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
    assigner=L(MaxIoU)(positive_iou=0.5, negative_iou=0.4, low_quality="object"),
    criterion=retinanet_focal(),
    num_classes=80,
    inference=L(DenseInference)(score_thresh=0.05, topk_by="anchor", nms_thresh=0.5),
    **IMAGENET_RGB,
)

model_512 = deepcopy(model)
model_512.head.num_anchors = 6
model_512.anchor_generator.sizes = scales(2)
model_512.box2box_transform.weights = [10.0, 10.0, 5.0, 5.0]

squares_512 = deepcopy(model_512)
squares_512.head.num_anchors = 2
squares_512.anchor_generator.aspect_ratios = [1.0]

atss = deepcopy(model)
atss.backbone = fpn_r50("p5")
atss.head.num_anchors = 1
atss.head.norm = "GN"
atss.head.num_scales = 5
atss.head.branch = True
atss.anchor_generator.sizes = scales(1, base=8)
atss.anchor_generator.aspect_ratios = [1.0]
atss.box2box_transform.weights = [10.0, 10.0, 5.0, 5.0]
atss.assigner = L(ATSS)(topk=9)
atss.criterion = atss_focal()
atss.inference.nms_thresh = 0.6
