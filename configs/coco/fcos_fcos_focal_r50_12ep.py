"""FCOS, FCOS assignment, focal loss, centerness branch: ResNet-50, 12 epochs on COCO.

The baseline of the FCOS configs (Tian et al., ICCV 2019). Its authors report AP 37.1; the papers of
the ranking losses have no such row.
"""

from ..common.models.fcos_r50 import model
from .retinanet_maxiou_focal_r50_12ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/coco/fcos_fcos_focal_r50_12ep"
