"""Faster R-CNN, CARAFE FPN, max-IoU, Rank & Sort Loss: ResNet-101 with DCN, 36 epochs on COCO.

Published AP 47.6, with multi-scale training: RS-Faster R-CNN+ with R-101-DCN in table S10 of the
supplement of Oksuz et al., ICCV 2021.
"""

from ..common.models.rcnn import with_carafe
from .faster_rs_r101_dcn_36ep import dataloader, lr_multiplier, model, optimizer, train

model = with_carafe(model)
train.output_dir = "output/coco/faster_plus_rs_r101_dcn_36ep"
