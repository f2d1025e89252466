"""Mask R-CNN, max-IoU, Rank & Sort Loss, no sampling: ResNet-50, 12 epochs on COCO.

Published mask AP 36.4, box AP 40.0: RS-Mask R-CNN in table S10 of the supplement of Oksuz et al.,
ICCV 2021.
"""

from ..common.coco import dataloader_masks as dataloader
from ..common.coco import length, optimizer, schedule, train
from ..common.models.rcnn_r50 import mask as model

optimizer.lr = 0.012
# 7,330 iterations per epoch: steps at 58,640 and 80,630, end at 87,960.
lr_multiplier = schedule(12, [8, 11])
train.update(length(12))
train.output_dir = "output/coco/mask_rs_r50_12ep"
