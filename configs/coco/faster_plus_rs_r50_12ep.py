"""Faster R-CNN, CARAFE FPN, max-IoU, Rank & Sort Loss: ResNet-50, 12 epochs on COCO.

Published AP 40.8: RS-Faster R-CNN+ in section S3.6.2 of the supplement of Oksuz et al., ICCV 2021,
at the score threshold .05. At this config's threshold of .40, table S10 reports 40.7.
"""

from ..common.models.rcnn import with_carafe
from .faster_rs_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model = with_carafe(model)
train.output_dir = "output/coco/faster_plus_rs_r50_12ep"
