"""The baseline: FCOS (Tian et al., ICCV 2019), ResNet-50, 12 epochs; AP 37.1 by its authors."""

from ..common.models.fcos_r50 import model
from .retinanet_maxiou_focal_r50_12ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/coco/fcos_fcos_focal_r50_12ep"
