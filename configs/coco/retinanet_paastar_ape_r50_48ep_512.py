"""RetinaNet, PAA*, APE Loss: ResNet-50, 48 epochs on COCO at 512 px.

Published AP 41.1: PAA*(512) in table 9 of Xu et al., CVPR 2022.
"""

from detectron2.config import LazyCall as L

from ranking_det.assigners import NormalizedPAA
from ranking_det.criteria import IoUWeight

from ..common.criteria import ape
from .retinanet_maxiou_ape_r50_48ep_512 import dataloader, lr_multiplier, model, optimizer, train

model.head.norm = "GN"
model.head.num_scales = 5
model.assigner = L(NormalizedPAA)(topk=9, min_iou=0.1)
model.criterion = ape(max_negatives=1_000_000, weight=L(IoUWeight)())
train.output_dir = "output/coco/retinanet_paastar_ape_r50_48ep_512"
