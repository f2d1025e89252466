"""RetinaNet, ATSS, aLRP Loss: ResNet-50, 100 epochs on COCO at 512 px.

Published AP 41.0: aLRP Loss of Oksuz et al., NeurIPS 2020, quoted as ATSS(512) in table 9 of APE
Loss (Xu et al., CVPR 2022).
"""

from detectron2.config import LazyCall as L

from ranking_det.assigners import ATSS

from ..common.coco import dataloader_512 as dataloader
from ..common.coco import length, optimizer, schedule, train
from ..common.criteria import alrp
from ..common.models.retinanet_r50 import squares_512 as model

dataloader.train.total_batch_size = 32
model.assigner = L(ATSS)(topk=9)
model.criterion = alrp()
optimizer.lr = 0.008
# 3,665 iterations per epoch: steps at 274,875 and 348,175, end at 366,500.
lr_multiplier = schedule(100, [75, 95])
train.update(length(100, batch=32))
train.output_dir = "output/coco/retinanet_atss_alrp_r50_100ep_512"
