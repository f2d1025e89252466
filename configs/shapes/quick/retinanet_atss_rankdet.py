"""RetinaNet, ATSS, focal loss then RankDetNet: half-width ResNet-18, short run on shapes.

The learning-rate schedule restarts with the second stage.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import CompositeParamScheduler, CosineParamScheduler

from ranking_det.criteria import CriterionSchedule, GIoU

from ...common.criteria import focal_giou, rankdet
from ...common.shapes import schedule
from ...common.shapes_quick import dataloader, optimizer, train
from ...common.shapes_quick import retinanet as model

model.criterion = L(CriterionSchedule)(
    stages=[focal_giou(), rankdet(L(GIoU)())], shares=[0.5, 0.5], max_iter="${train.max_iter}"
)
_cosines = L(CompositeParamScheduler)(
    schedulers=[L(CosineParamScheduler)(start_value=1.0, end_value=0.0) for _ in range(2)],
    lengths=[0.5, 0.5],
    interval_scaling=["rescaled", "rescaled"],
)
lr_multiplier = schedule(iterations=20, scheduler=_cosines)
model.inference.nms = "linear"
train.output_dir = "output/shapes/quick/retinanet_atss_rankdet"
