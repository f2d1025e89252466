"""Faster R-CNN with focal loss, not tuned: a row of table S8 of Oksuz et al., ICCV 2021.

Published AP 31.8; 32.0 with all anchors, 30.7 with all proposals too: the samplers are overrides.
Neither the box coder nor what the losses are divided by is known: here the coder of Rank & Sort
Loss's detectors, and the number of positives.
"""

from ..common.criteria import focal_giou
from ..common.models.rcnn import with_criteria, with_rare_positives, with_samplers
from ..common.models.rcnn_r50 import faster
from .faster_rs_r50_12ep import dataloader, lr_multiplier, optimizer, train

model = with_criteria(faster, focal_giou(momentum=0.0), focal_giou(momentum=0.0))
model = with_rare_positives(with_samplers(model))
model.proposal_generator.loss_weight = 1.0
optimizer.lr = 0.01
train.output_dir = "output/coco/faster_focal_r50_12ep"
