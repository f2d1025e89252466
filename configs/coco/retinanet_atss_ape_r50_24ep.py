"""RetinaNet, ATSS, APE Loss: ResNet-50, 24 epochs on COCO.

Published AP 40.8: ATSS(800) in table 9 of Xu et al., CVPR 2022.
"""

from ..common.coco import dataloader, length, optimizer, schedule, train
from ..common.criteria import ape
from ..common.models.retinanet_r50 import atss as model

model.head.branch = False
model.criterion = ape()
model.inference.score_thresh = 0.15
# 7,330 iterations per epoch: steps at 131,940 and 161,260, end at 175,920.
lr_multiplier = schedule(24, [18, 22])
train.update(length(24))
train.output_dir = "output/coco/retinanet_atss_ape_r50_24ep"
