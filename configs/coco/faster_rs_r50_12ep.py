"""RS-Faster R-CNN of Oksuz et al., ICCV 2021: ResNet-50, 12 epochs, published AP 39.6.

With random samples (table S8) 38.5, with all anchors 39.3: the samplers are overrides.
"""

from ..common.coco import dataloader, length, optimizer, schedule, train
from ..common.models.rcnn_r50 import faster as model

optimizer.lr = 0.012
lr_multiplier = schedule(12, [8, 11])  # steps at 8 and 11 x 7,330 = 58,640 and 80,630
train.update(length(12))  # x 7,330 = 87,960
train.output_dir = "output/coco/faster_rs_r50_12ep"
