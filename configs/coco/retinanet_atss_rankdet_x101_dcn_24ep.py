"""RetinaNet, ATSS, focal loss then RankDetNet's losses: ResNeXt-101 with DCN, 24 epochs.

Published AP 48.1 on COCO: FCOS-ATSS with ResNeXt-101-DCN (64 x 4d) in table 1 of RankDetNet (Liu et
al., CVPR 2021). The paper does not give the number of deformable groups; we use 1.
"""

from ..common.coco import RESNEXT_101
from ..common.models.backbones import deformable, resnext_101
from .retinanet_atss_rankdet_r50_24ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = deformable(resnext_101(first=3), deformable_groups=1)
train.init_checkpoint = RESNEXT_101
train.output_dir = "output/coco/retinanet_atss_rankdet_x101_dcn_24ep"
