"""RetinaNet, PAA, focal loss, IoU branch, score voting: ResNet-50, 12 epochs on COCO.

The baseline of the configs with PAA (Kim and Lee, ECCV 2020). Its authors report AP 40.4; the
papers of the ranking losses have no such row.
"""

from detectron2.config import LazyCall as L

from ranking_det.assigners import PAA

from ..common.coco import dataloader, length, optimizer, schedule, train
from ..common.criteria import paa_focal
from ..common.models.retinanet_r50 import atss as model

model.assigner = L(PAA)(topk=9, min_iou=0.1)
model.criterion = paa_focal()
model.backbone.top_block.relu = True  # as in the authors' code
model.inference.score_voting = True
# 7,330 iterations per epoch: steps at 58,640 and 80,630, end at 87,960.
lr_multiplier = schedule(12, [8, 11])
train.update(length(12))
train.output_dir = "output/coco/retinanet_paa_focal_r50_12ep"
