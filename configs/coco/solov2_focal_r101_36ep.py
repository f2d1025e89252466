"""SOLOv2, center region, focal loss: ResNet-101, 36 epochs on COCO, multi-scale.

Published mask AP 39.1: the model of SOLOv2's authors (Wang et al., NeurIPS 2020), the baseline of
RS-SOLOv2 (``solov2_rs_r101_36ep.py``).
"""

from ..common.models.solov2 import with_focal
from .solov2_rs_r101_36ep import dataloader, lr_multiplier, model, optimizer, train

model = with_focal(model)
optimizer.lr = 0.01
train.output_dir = "output/coco/solov2_focal_r101_36ep"
