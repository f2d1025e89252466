"""RetinaNet, ATSS, focal loss, centerness branch: ResNet-50 with DCN, 12 epochs.

Published AP 43.9 on COCO: FCOS-ATSS with ResNet-50-DCN in table 1 of RankDetNet (Liu et al., CVPR
2021). The paper does not give the number of deformable groups; we use 1.
"""

from ..common.models.backbones import deformable
from ..common.models.retinanet_r50 import atss as model
from .retinanet_maxiou_focal_r50_12ep import dataloader, lr_multiplier, optimizer, train

model.backbone.bottom_up = deformable(model.backbone.bottom_up, deformable_groups=1)
train.output_dir = "output/coco/retinanet_atss_focal_r50_dcn_12ep"
