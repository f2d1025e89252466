"""RetinaNet, max-IoU, aLRP Loss: ResNet-50, 100 epochs on COCO at 512 px.

Published AP 39.0 (Oksuz et al., NeurIPS 2020).
"""

from ..common.coco import dataloader_512 as dataloader
from ..common.coco import length, optimizer, schedule, train
from ..common.criteria import alrp
from ..common.models.retinanet_r50 import model_512 as model

dataloader.train.total_batch_size = 32
model.criterion = alrp()
optimizer.lr = 0.008
# 3,665 iterations per epoch: steps at 219,900 and 293,200, end at 366,500.
lr_multiplier = schedule(100, [60, 80])
train.update(length(100, batch=32))
train.output_dir = "output/coco/retinanet_maxiou_alrp_r50_100ep_512"
