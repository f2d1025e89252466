"""Mask R-CNN, CARAFE FPN, max-IoU, Rank & Sort Loss: ResNet-101 with DCN, 36 epochs on COCO.

Published mask AP 43.5, box AP 48.7, with multi-scale training: RS-Mask R-CNN+ with R-101-DCN in
table S10 of the supplement of Oksuz et al., ICCV 2021.
"""

from ..common.coco import resize
from ..common.models.backbones import deformable
from ..common.models.rcnn import with_carafe
from .mask_rs_r101_36ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = deformable(model.backbone.bottom_up, deformable_groups=4)
model = with_carafe(model)
dataloader.train.mapper.augmentations[0] = resize(480, 560, 640, 720, 800, 880, 960)
train.output_dir = "output/coco/mask_plus_rs_r101_dcn_36ep"
