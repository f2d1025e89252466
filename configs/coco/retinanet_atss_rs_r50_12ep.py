"""RetinaNet, ATSS, Rank & Sort Loss: ResNet-50, 12 epochs on COCO.

Published AP 39.9: RS-ATSS with delta .5 in table S4 of the supplement of Oksuz et al., ICCV 2021.
"""

from ..common.coco import dataloader, length, optimizer, schedule, train
from ..common.criteria import rank_sort
from ..common.models.retinanet_r50 import atss as model
from ..common.models.retinanet_r50 import scales

model.head.branch = False
model.head.num_anchors = 3
model.anchor_generator.sizes = scales(3)
model.criterion = rank_sort()
optimizer.lr = 0.008
# 7,330 iterations per epoch: steps at 58,640 and 80,630, end at 87,960.
lr_multiplier = schedule(12, [8, 11])
train.update(length(12))
train.output_dir = "output/coco/retinanet_atss_rs_r50_12ep"
