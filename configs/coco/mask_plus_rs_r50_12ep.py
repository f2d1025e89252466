"""Mask R-CNN, CARAFE FPN, max-IoU, Rank & Sort Loss: ResNet-50, 12 epochs on COCO.

Published mask AP 37.3, box AP 41.1: RS-Mask R-CNN+ in table S10 of the supplement of Oksuz et al.,
ICCV 2021.
"""

from ..common.models.rcnn import with_carafe
from .mask_rs_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model = with_carafe(model)
train.output_dir = "output/coco/mask_plus_rs_r50_12ep"
