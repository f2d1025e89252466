"""Focal loss with GIoU where retinanet_atss_rs.py ranks; all else is the same."""

from ..common.criteria import focal_giou
from .retinanet_atss_rs import dataloader, lr_multiplier, model, optimizer, train

model.criterion = focal_giou()
train.output_dir = "output/shapes/retinanet_atss_focal"
