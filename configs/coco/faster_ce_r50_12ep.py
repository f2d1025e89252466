"""Faster R-CNN with cross entropy: the baseline of RS-Faster R-CNN.

Published AP 37.6 with GIoU (Oksuz et al., ICCV 2021, table S8); here the box loss is L1.
"""

from ..common.rcnn_r50 import faster_ce as model
from .faster_rs_r50_12ep import dataloader, lr_multiplier, optimizer, train

optimizer.lr = 0.02
train.output_dir = "output/coco/faster_ce_r50_12ep"
