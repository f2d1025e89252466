"""RetinaNet, ATSS, focal loss then RankDetNet's losses: ResNet-50, 24 epochs on COCO.

Published AP 40.7: FCOS-ATSS in table 1 of RankDetNet (Liu et al., CVPR 2021).
"""

from ..common.coco import dataloader, length, optimizer, schedule, train
from ..common.criteria import atss_focal, in_halves, rankdet_centerness
from ..common.models.retinanet_r50 import atss as model

model.criterion = in_halves(atss_focal(), rankdet_centerness())
model.inference.nms = "linear"
# 7,330 iterations per epoch: steps at 58,640 and 80,630, restart at 87,960,
# steps at 146,600 and 168,590, end at 175,920.
lr_multiplier = schedule(12, [8, 11], stages=2)
train.update(length(24))
train.output_dir = "output/coco/retinanet_atss_rankdet_r50_24ep"
