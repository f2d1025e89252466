"""RetinaNet, PAA, focal loss, IoU branch, score voting: ResNet-50, 12 epochs on COCO.

The baseline of the configs with PAA (Kim and Lee, ECCV 2020). Its authors report AP 40.4; the
papers of the ranking losses have no such row.
"""

from detectron2.config import LazyCall as L

from ranking_det.assigners import PAA

from ..common.criteria import paa_focal
from ..common.models.retinanet_r50 import atss as model
from .retinanet_maxiou_focal_r50_12ep import dataloader, lr_multiplier, optimizer, train

model.assigner = L(PAA)(topk=9, min_iou=0.1)
model.criterion = paa_focal()
model.backbone.top_block.relu = True  # as in the authors' code
model.inference.score_voting = True
train.output_dir = "output/coco/retinanet_paa_focal_r50_12ep"
