"""Mask R-CNN, max-IoU, cross entropy, random sampling: ResNet-50, 12 epochs on COCO.

The baseline of RS-Mask R-CNN (``mask_rs_r50_12ep.py``). We know of no published AP.
"""

from ..common.models.rcnn_r50 import mask_ce as model
from .mask_rs_r50_12ep import dataloader, lr_multiplier, optimizer, train

optimizer.lr = 0.02
train.output_dir = "output/coco/mask_ce_r50_12ep"
