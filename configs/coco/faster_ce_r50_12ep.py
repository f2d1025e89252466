"""Faster R-CNN with cross entropy: the baseline in table S8 of Oksuz et al., ICCV 2021.

Published AP 37.6; 32.7 with all anchors, 30.1 with all proposals too: the samplers are overrides.
The box head has GIoU Loss, the RPN L1; the weight of 10 is the usual one, the paper names none.
"""

from ..common.criteria import cross_entropy_giou
from ..common.models.rcnn_r50 import faster_ce as model
from .faster_rs_r50_12ep import dataloader, lr_multiplier, optimizer, train

model.roi_heads.criterion = cross_entropy_giou()
optimizer.lr = 0.02
train.output_dir = "output/coco/faster_ce_r50_12ep"
