"""Cascade R-CNN, max-IoU, Rank & Sort Loss: ResNet-50, 12 epochs on COCO.

Published AP 41.3: RS Cascade R-CNN in table S5 of the supplement of Oksuz et al., ICCV 2021.
"""

from ..common.models.rcnn_r50 import cascade as model
from .faster_rs_r50_12ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/coco/cascade_rs_r50_12ep"
