"""RetinaNet, max-IoU, focal loss then RankDetNet's losses: ResNet-101, 24 epochs on COCO.

Published AP 39.4: RetinaNet with ResNet-101 in table 1 of RankDetNet (Liu et al., CVPR 2021).
"""

from ..common.coco import RESNET_101
from .retinanet_maxiou_rankdet_r50_24ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.stages.depth = 101
train.init_checkpoint = RESNET_101
train.output_dir = "output/coco/retinanet_maxiou_rankdet_r101_24ep"
