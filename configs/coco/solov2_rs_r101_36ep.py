"""SOLOv2, center region, Rank & Sort Loss: ResNet-101, 36 epochs on COCO, multi-scale.

Published mask AP 39.7: RS-SOLOv2 of Oksuz et al., ICCV 2021.
"""

from ..common.coco import RESNET_101, length, optimizer, resize, schedule, train
from ..common.coco import dataloader_masks as dataloader
from ..common.models.solov2 import model

dataloader.train.mapper.augmentations[0] = resize(640, 672, 704, 736, 768, 800)
optimizer.lr = 0.006
# 7,330 iterations per epoch: steps at 197,910 and 241,890, end at 263,880.
lr_multiplier = schedule(36, [27, 33])
lr_multiplier.factor = 0.01
train.update(length(36))
train.clip_grad_norm = 35.0
train.init_checkpoint = RESNET_101
train.output_dir = "output/coco/solov2_rs_r101_36ep"
