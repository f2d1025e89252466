"""Faster R-CNN, max-IoU, Rank & Sort Loss, no sampling: ResNet-50, 12 epochs on COCO.

Published AP 39.6: RS-Faster R-CNN in table S10 of the supplement of Oksuz et al., ICCV 2021. Table
S8 reports 38.5 with random sampling in the RPN and the box head, and 39.3 with random sampling in
the box head only; override the samplers to train those rows.
"""

from ..common.coco import dataloader, length, optimizer, schedule, train
from ..common.models.rcnn_r50 import faster as model

optimizer.lr = 0.012
# 7,330 iterations per epoch: steps at 58,640 and 80,630, end at 87,960.
lr_multiplier = schedule(12, [8, 11])
train.update(length(12))
train.output_dir = "output/coco/faster_rs_r50_12ep"
