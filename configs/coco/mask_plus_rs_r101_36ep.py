"""Mask R-CNN, CARAFE FPN, max-IoU, Rank & Sort Loss: ResNet-101, 36 epochs on COCO, multi-scale.

Published mask AP 41.4, box AP 46.1: RS-Mask R-CNN+ in table S10 of the supplement of Oksuz et al.,
ICCV 2021.
"""

from ..common.coco import resize
from ..common.models.rcnn import with_carafe
from .mask_rs_r101_36ep import dataloader, lr_multiplier, model, optimizer, train

model = with_carafe(model)
dataloader.train.mapper.augmentations[0] = resize(480, 560, 640, 720, 800, 880, 960)
train.output_dir = "output/coco/mask_plus_rs_r101_36ep"
