"""RetinaNet, max-IoU, focal loss: ResNet-101, 12 epochs on COCO.

Published AP 37.5: RetinaNet with ResNet-101 in table 1 of RankDetNet (Liu et al., CVPR 2021).
"""

from ..common.coco import RESNET_101
from .retinanet_maxiou_focal_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.stages.depth = 101
train.init_checkpoint = RESNET_101
train.output_dir = "output/coco/retinanet_maxiou_focal_r101_12ep"
