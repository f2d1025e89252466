"""RetinaNet, ATSS, quality focal loss: ResNet-50, 12 epochs on COCO.

Published AP 39.9: quality focal loss (Li et al., NeurIPS 2020) with ATSS(800), quoted in table 9 of
APE Loss (Xu et al., CVPR 2022). The box loss is weighted by score.
"""

from ranking_det.criteria import ScoreWeight

from ..common.criteria import quality_focal
from ..common.models.retinanet_r50 import atss as model
from .retinanet_maxiou_focal_r50_12ep import dataloader, lr_multiplier, optimizer, train

model.head.branch = False
model.criterion = quality_focal(ScoreWeight)
train.output_dir = "output/coco/retinanet_atss_qfl_r50_12ep"
