"""Mask R-CNN with cross entropy: the baseline of RS-Mask R-CNN."""

from ..common.models.rcnn_r50 import mask_ce as model
from .mask_rs_r50_12ep import dataloader, lr_multiplier, optimizer, train

optimizer.lr = 0.02
train.output_dir = "output/coco/mask_ce_r50_12ep"
