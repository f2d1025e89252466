"""RetinaNet, max-IoU, focal loss then RankDetNet's losses: ResNet-50, 24 epochs on COCO.

Published AP 37.8: RetinaNet in table 1 of RankDetNet (Liu et al., CVPR 2021). After 12 epochs of
focal loss, the ranking losses train for 12 epochs with the learning-rate schedule restarted.
"""

from ..common.coco import dataloader, length, optimizer, schedule, train
from ..common.criteria import in_halves, rankdet, retinanet_focal
from ..common.models.retinanet_r50 import model

model.criterion = in_halves(retinanet_focal(), rankdet())
model.inference.nms, model.inference.nms_thresh = "linear", 0.6
# 7,330 iterations per epoch: steps at 58,640 and 80,630, restart at 87,960,
# steps at 146,600 and 168,590, end at 175,920.
lr_multiplier = schedule(12, [8, 11], stages=2)
train.update(length(24))
train.output_dir = "output/coco/retinanet_maxiou_rankdet_r50_24ep"
