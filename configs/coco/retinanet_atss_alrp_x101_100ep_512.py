"""RetinaNet, ATSS, aLRP Loss: ResNeXt-101, 100 epochs on COCO at 512 px.

Published AP 44.5: aLRP Loss with ATSS and ResNeXt-101 (Oksuz et al., NeurIPS 2020). We use the
64 x 4d variant, as in the rows of the other papers.
"""

from ..common.coco import RESNEXT_101
from ..common.models.backbones import resnext_101
from .retinanet_atss_alrp_r50_100ep_512 import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = resnext_101(first=3)
train.init_checkpoint = RESNEXT_101
train.output_dir = "output/coco/retinanet_atss_alrp_x101_100ep_512"
