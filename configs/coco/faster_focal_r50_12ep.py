"""Faster R-CNN, max-IoU, focal loss, random sampling: ResNet-50, 12 epochs on COCO.

A row of table S8 in the supplement of Oksuz et al., ICCV 2021; its focal loss is not tuned.
Published AP 31.8. The table reports 32.0 without the RPN's sampler and 30.7 without either sampler;
override the samplers to train those rows. The paper gives neither the box coder nor the normalizer
of the losses. This config uses the box coder of the Rank & Sort detectors and divides by the number
of positives.
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
