"""YOLACT, max-IoU, Rank & Sort Loss: ResNet-50, 55 epochs on COCO at 550 px.

Published mask AP 29.9, box AP 33.8: RS-YOLACT of Oksuz et al., ICCV 2021.
"""

from ..common.coco import cosine_per_epoch, length, optimizer, train
from ..common.coco import dataloader_550 as dataloader
from ..common.models.yolact_r50 import model

dataloader.train.total_batch_size = 32
optimizer.lr = 0.006
optimizer.weight_decay = 5e-4
# 3,665 iterations per epoch, 201,575 in total.
lr_multiplier = cosine_per_epoch()
train.update(length(55, batch=32))
train.output_dir = "output/coco/yolact_rs_r50_55ep"
