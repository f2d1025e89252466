"""Mask R-CNN, max-IoU, Rank & Sort Loss: ResNet-101, 36 epochs on COCO, multi-scale.

Published mask AP 40.3, box AP 44.7: RS-Mask R-CNN in table S10 of the supplement of Oksuz et al.,
ICCV 2021.
"""

from ..common.coco import RESNET_101, length, optimizer, resize, schedule, train
from ..common.coco import dataloader_masks as dataloader
from ..common.models.rcnn_r50 import mask as model

model.backbone.bottom_up.stages.depth = 101
dataloader.train.mapper.augmentations[0] = resize(640, 672, 704, 736, 768, 800)
optimizer.lr = 0.012
# 7,330 iterations per epoch: steps at 197,910 and 241,890, end at 263,880.
lr_multiplier = schedule(36, [27, 33])
train.update(length(36))
train.init_checkpoint = RESNET_101
train.output_dir = "output/coco/mask_rs_r101_36ep"
