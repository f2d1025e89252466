"""Faster R-CNN, max-IoU, Rank & Sort Loss, no sampling: ResNet-101, 12 epochs on COCO.

RS-Faster R-CNN (Oksuz et al., ICCV 2021) with the settings of its row with ResNet-50. The tables
of the supplement do not have this row, and we know of no published AP.
"""

from ..common.coco import RESNET_101
from .faster_rs_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.stages.depth = 101
train.init_checkpoint = RESNET_101
train.output_dir = "output/coco/faster_rs_r101_12ep"
