"""RetinaNet, ATSS, aLRP Loss: ResNet-101, 100 epochs on COCO at 512 px.

Published AP 42.2: aLRP Loss with ATSS and ResNet-101 (Oksuz et al., NeurIPS 2020).
"""

from ..common.coco import RESNET_101
from .retinanet_atss_alrp_r50_100ep_512 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.stages.depth = 101
train.init_checkpoint = RESNET_101
train.output_dir = "output/coco/retinanet_atss_alrp_r101_100ep_512"
