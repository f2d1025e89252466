"""Faster R-CNN, max-IoU, aLRP Loss: ResNet-50, 12 epochs on COCO.

Published AP 37.4: aLRP Loss after epoch 12 of the standard training in table S2 of the supplement
of Rank & Sort Loss (Oksuz et al., ICCV 2021).
"""

from ..common.criteria import alrp
from ..common.models.rcnn import with_criteria, with_rare_positives
from ..common.models.rcnn_r50 import faster
from .faster_rs_r50_12ep import dataloader, lr_multiplier, optimizer, train

model = with_rare_positives(with_criteria(faster, alrp(tau=0.7), alrp()))
model.roi_heads.proposal_append_gt = False
optimizer.lr = 0.009
train.output_dir = "output/coco/faster_alrp_r50_12ep"
