"""RetinaNet, max-IoU, focal loss then RankDetNet's losses: ResNet-50, 24 epochs on COCO.

Published AP 37.8: RetinaNet in table 1 of RankDetNet (Liu et al., CVPR 2021). After 12 epochs of
focal loss, the ranking losses train for 12 epochs with the learning-rate schedule restarted.
"""

from ..common.coco import dataloader, length, optimizer, schedule, train
from ..common.criteria import in_halves, rankdet, retinanet_focal
from ..common.models.retinanet_r50 import model

model.criterion = in_halves(retinanet_focal(), rankdet())
model.inference.nms, model.inference.nms_thresh = "linear", 0.6
lr_multiplier = schedule(12, [8, 11], stages=2)  # at 8, 11, 20 and 23 x 7,330
train.update(length(24))  # x 7,330 = 175,920
train.output_dir = "output/coco/retinanet_maxiou_rankdet_r50_24ep"
