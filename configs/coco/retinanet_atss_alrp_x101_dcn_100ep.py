"""RetinaNet, ATSS, aLRP Loss: ResNeXt-101 with DCN, 100 epochs on COCO at 800 x 800 px.

Published AP 48.6: aLRP Loss with ATSS and ResNeXt-101-DCN (Oksuz et al., NeurIPS 2020). We use the
64 x 4d variant, as in the rows of the other papers. We do not know the number of deformable groups
and use 4, as the same authors did for Rank & Sort Loss.
"""

from ..common.coco import RESNEXT_101
from ..common.models.backbones import deformable, resnext_101
from .retinanet_atss_alrp_r101_100ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = deformable(resnext_101(first=3), deformable_groups=4)
train.init_checkpoint = RESNEXT_101
train.output_dir = "output/coco/retinanet_atss_alrp_x101_dcn_100ep"
