"""Mask R-CNN, CARAFE FPN, max-IoU, Rank & Sort Loss: ResNeXt-101 with DCN, 36 epochs on COCO.

Published mask AP 44.4, box AP 49.9, with multi-scale training: RS-Mask R-CNN+ with X-101-DCN
(64 x 4d) in table S10 of the supplement of Oksuz et al., ICCV 2021.
"""

from ..common.coco import RESNEXT_101, resize
from ..common.models.backbones import deformable, resnext_101
from ..common.models.rcnn import with_carafe
from .mask_rs_r101_36ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = deformable(resnext_101(first=2), deformable_groups=4)
model = with_carafe(model)
dataloader.train.mapper.augmentations[0] = resize(480, 560, 640, 720, 800, 880, 960)
train.init_checkpoint = RESNEXT_101
train.output_dir = "output/coco/mask_plus_rs_x101_dcn_36ep"
