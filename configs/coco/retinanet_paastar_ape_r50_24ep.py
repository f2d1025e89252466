"""RetinaNet, PAA*, APE Loss: ResNet-50, 24 epochs on COCO.

Published AP 41.5: PAA*(800) in table 9 of Xu et al., CVPR 2022.
"""

from detectron2.config import LazyCall as L

from ranking_det.assigners import NormalizedPAA
from ranking_det.criteria import IoUWeight

from ..common.criteria import ape
from .retinanet_atss_ape_r50_24ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.top_block.in_feature = "res5"
model.backbone.top_block.in_channels = 2048
model.assigner = L(NormalizedPAA)(topk=9, min_iou=0.1)
model.criterion = ape(weight=L(IoUWeight)())
train.output_dir = "output/coco/retinanet_paastar_ape_r50_24ep"
