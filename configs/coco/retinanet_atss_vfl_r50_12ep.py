"""RetinaNet, ATSS, varifocal loss: ResNet-50, 12 epochs on COCO.

Published AP 40.2: varifocal loss (Zhang et al., CVPR 2021) with ATSS(800), quoted in table 9 of APE
Loss (Xu et al., CVPR 2022). We do not know the instance weights of the box loss and give
all positives the same weight.
"""

from ..common.criteria import varifocal
from ..common.models.retinanet_r50 import atss as model
from .retinanet_maxiou_focal_r50_12ep import dataloader, lr_multiplier, optimizer, train

model.head.branch = False
model.criterion = varifocal()
train.output_dir = "output/coco/retinanet_atss_vfl_r50_12ep"
