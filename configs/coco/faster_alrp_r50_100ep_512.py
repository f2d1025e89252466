"""Faster R-CNN, max-IoU, aLRP Loss: ResNet-50, 100 epochs on COCO at 512 px.

Published AP 40.7: aLRP Loss (Oksuz et al., NeurIPS 2020) after epoch 100 of the heavy training in
table S2 of the supplement of Rank & Sort Loss (Oksuz et al., ICCV 2021).
"""

from ..common.coco import dataloader_512 as dataloader
from ..common.coco import length, optimizer, schedule, train
from ..common.criteria import alrp
from ..common.models.rcnn import with_criteria, with_rare_positives
from ..common.models.rcnn_r50 import faster as model

model = with_rare_positives(with_criteria(model, alrp(tau=0.7), alrp()))
model.roi_heads.proposal_append_gt = False
dataloader.train.total_batch_size = 32
optimizer.lr = 0.012
# 3,665 iterations per epoch: steps at 274,875 and 348,175, end at 366,500.
lr_multiplier = schedule(100, [75, 95])
train.update(length(100, batch=32))
train.output_dir = "output/coco/faster_alrp_r50_100ep_512"
