"""RetinaNet, ATSS, focal loss, centerness branch: ResNet-50, 12 epochs on COCO.

The baseline of the configs with ATSS (Zhang et al., CVPR 2020). Published AP 39.2: focal loss with
ATSS(800) in table 9 of APE Loss (Xu et al., CVPR 2022).
"""

from ..common.models.retinanet_r50 import atss as model
from .retinanet_maxiou_focal_r50_12ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/coco/retinanet_atss_focal_r50_12ep"
