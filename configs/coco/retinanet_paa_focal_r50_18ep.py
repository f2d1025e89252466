"""RetinaNet, PAA, focal loss, IoU branch, score voting: ResNet-50, 18 epochs on COCO.

Published AP 41.1: focal loss with PAA(800) in table 9 of APE Loss (Xu et al., CVPR 2022). The table
does not give the steps of the learning rate; 12 and 16 are our choice.
"""

from ..common.coco import length, schedule
from .retinanet_paa_focal_r50_12ep import dataloader, model, optimizer, train

# 7,330 iterations per epoch: steps at 87,960 and 117,280, end at 131,940.
lr_multiplier = schedule(18, [12, 16])
train.update(length(18))
train.output_dir = "output/coco/retinanet_paa_focal_r50_18ep"
