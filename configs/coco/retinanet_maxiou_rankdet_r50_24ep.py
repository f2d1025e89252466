"""RankDetNet (Liu et al., CVPR 2021), table 1: RetinaNet, ResNet-50, published AP 37.8.

12 epochs of focal loss, then 12 of the ranking losses with the learning rate started again.
"""

from detectron2.config import LazyCall as L

from ranking_det.criteria import CriterionSchedule

from ..common.coco import dataloader, length, optimizer, schedule, train
from ..common.criteria import rankdet, retinanet_focal
from ..common.models.retinanet_r50 import model

model.criterion = L(CriterionSchedule)(
    stages=[retinanet_focal(), rankdet()], shares=[0.5, 0.5], max_iter="${train.max_iter}"
)
model.inference.nms, model.inference.nms_thresh = "linear", 0.6
lr_multiplier = schedule(12, [8, 11], stages=2)  # at 8, 11, 20 and 23 x 7,330
train.update(length(24))  # x 7,330 = 175,920
train.output_dir = "output/coco/retinanet_maxiou_rankdet_r50_24ep"
