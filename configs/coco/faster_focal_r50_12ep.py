"""Faster R-CNN with focal loss, not tuned: a row of table S8 of Oksuz et al., ICCV 2021.

Published AP 31.8; 32.0 with all anchors, 30.7 with all proposals too: the samplers are overrides.
Neither the box coder nor what the losses are divided by is known: here the coder of Rank & Sort
Loss's detectors, and the number of positives.
"""

from detectron2.config import LazyCall as L

from ranking_det.modeling import RankingRPNHead

from ..common.criteria import focal_giou
from ..common.rcnn import with_criterion, with_samplers
from ..common.rcnn_r50 import faster
from .faster_rs_r50_12ep import dataloader, lr_multiplier, optimizer, train

focal_giou.normalizer.momentum = 0.0
model = with_samplers(with_criterion(faster, focal_giou))
model.proposal_generator.head = L(RankingRPNHead)(in_channels=256, num_anchors=3, prior_prob=0.01)
model.proposal_generator.loss_weight = 1.0
model.roi_heads.box_predictor.prior_prob = 0.01
model.roi_heads.box_predictor.test_score_thresh = 0.05
optimizer.lr = 0.01
train.output_dir = "output/coco/faster_focal_r50_12ep"
