"""The baseline: ATSS, ResNet-50, 12 epochs; AP 39.2 in table 9 of APE Loss (CVPR 2022)."""

from ..common.models.retinanet_r50 import atss as model
from .retinanet_maxiou_focal_r50_12ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/coco/retinanet_atss_focal_r50_12ep"
