"""RetinaNet, PAA*, APE Loss: ResNet-50, 96 epochs on COCO at 512 px.

Published AP 42.9: PAA*(512) with 96 epochs in table 9 of Xu et al., CVPR 2022.
"""

from detectron2.config import LazyCall as L

from ranking_det.assigners import NormalizedPAA
from ranking_det.criteria import IoUWeight

from ..common.coco import length, schedule
from ..common.criteria import ape
from .retinanet_maxiou_ape_r50_48ep_512 import dataloader, model, optimizer, train

model.head.norm = "GN"
model.head.num_scales = 5
model.assigner = L(NormalizedPAA)(topk=9, min_iou=0.1)
model.criterion = ape(max_negatives=1_000_000, weight=L(IoUWeight)())
# 7,330 iterations per epoch: steps at 469,120 and 645,040, end at 703,680.
lr_multiplier = schedule(96, [64, 88])
train.update(length(96))
train.output_dir = "output/coco/retinanet_paastar_ape_r50_96ep_512"
