"""RetinaNet, ATSS, focal loss then RankDetNet's losses: ResNet-50 with DCN, 24 epochs.

Published AP 45.2 on COCO: FCOS-ATSS with ResNet-50-DCN in table 1 of RankDetNet (Liu et al., CVPR
2021). The paper does not give the number of deformable groups; we use 1.
"""

from ..common.models.backbones import deformable
from .retinanet_atss_rankdet_r50_24ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = deformable(model.backbone.bottom_up, deformable_groups=1)
train.output_dir = "output/coco/retinanet_atss_rankdet_r50_dcn_24ep"
