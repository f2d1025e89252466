"""RetinaNet, ATSS, aLRP Loss: ResNet-101, 100 epochs on COCO at 800 x 800 px.

Published AP 45.4: aLRP Loss with ATSS and ResNet-101 (Oksuz et al., NeurIPS 2020). We do not know
the learning rate and use that of the 512 px config, scaled from 32 images per batch to 16. The test
images have a short edge of 800 px, as in the other rows.
"""

from detectron2.config import LazyCall as L

from ranking_det.assigners import ATSS

from ..common.coco import RESNET_101, length, optimizer, schedule, train
from ..common.coco import dataloader_squares as dataloader
from ..common.criteria import alrp
from ..common.models.retinanet_r50 import squares_512 as model

model.backbone.bottom_up.stages.depth = 101
model.assigner = L(ATSS)(topk=9)
model.criterion = alrp()
optimizer.lr = 0.004
# 7,330 iterations per epoch: steps at 549,750 and 696,350, end at 733,000.
lr_multiplier = schedule(100, [75, 95])
train.update(length(100))
train.init_checkpoint = RESNET_101
train.output_dir = "output/coco/retinanet_atss_alrp_r101_100ep"
