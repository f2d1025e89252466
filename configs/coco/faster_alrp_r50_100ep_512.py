"""aLRP Loss (Oksuz et al., NeurIPS 2020): Faster R-CNN, ResNet-50, 512 px, published AP 40.7."""

from detectron2.config import LazyCall as L

from ranking_det.modeling import RankingRPNHead

from ..common.coco import dataloader_512 as dataloader
from ..common.coco import length, optimizer, schedule, train
from ..common.criteria import alrp
from ..common.rcnn_r50 import faster as model

dataloader.train.total_batch_size = 32
alrp.balance.period = "${train.iterations_per_epoch}"
model.proposal_generator.head = L(RankingRPNHead)(in_channels=256, num_anchors=3, prior_prob=0.01)
model.proposal_generator.criterion = alrp
model.proposal_generator.criterion.tau = 0.7  # the IoU from which an anchor is positive
model.roi_heads.criterion = alrp
model.roi_heads.proposal_append_gt = False
model.roi_heads.box_predictor.prior_prob = 0.01
model.roi_heads.box_predictor.test_score_thresh = 0.05
optimizer.lr = 0.012
lr_multiplier = schedule(100, [75, 95])  # at 75 and 95 x 3,665 = 274,875 and 348,175
train.update(length(100, batch=32))  # x 3,665 = 366,500
train.output_dir = "output/coco/faster_alrp_r50_100ep_512"
