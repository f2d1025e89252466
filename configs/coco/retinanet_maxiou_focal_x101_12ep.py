"""RetinaNet, max-IoU, focal loss: ResNeXt-101, 12 epochs on COCO.

Published AP 39.7: RetinaNet with ResNeXt-101 (64 x 4d) in table 1 of RankDetNet (Liu et al., CVPR
2021).
"""

from ..common.coco import RESNEXT_101
from ..common.models.backbones import resnext_101
from .retinanet_maxiou_focal_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = resnext_101(first=3)
train.init_checkpoint = RESNEXT_101
train.output_dir = "output/coco/retinanet_maxiou_focal_x101_12ep"
