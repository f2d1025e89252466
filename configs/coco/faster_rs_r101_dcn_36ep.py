"""Faster R-CNN, max-IoU, Rank & Sort Loss: ResNet-101 with DCN, 36 epochs on COCO, multi-scale.

Published AP 47.6: RS-Faster R-CNN with R-101-DCN in table S10 of the supplement of Oksuz et al.,
ICCV 2021.
"""

from ..common.coco import RESNET_101, dataloader, length, optimizer, resize, schedule, train
from ..common.models.backbones import deformable, resnet
from ..common.models.rcnn_r50 import faster as model

model.backbone.bottom_up = deformable(resnet(first=2, depth=101), deformable_groups=4)
dataloader.train.mapper.augmentations[0] = resize(480, 560, 640, 720, 800, 880, 960)
optimizer.lr = 0.012
# 7,330 iterations per epoch: steps at 197,910 and 241,890, end at 263,880.
lr_multiplier = schedule(36, [27, 33])
train.update(length(36))
train.init_checkpoint = RESNET_101
train.output_dir = "output/coco/faster_rs_r101_dcn_36ep"
