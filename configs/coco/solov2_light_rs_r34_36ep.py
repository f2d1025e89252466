"""Light SOLOv2, center region, Rank & Sort Loss: ResNet-34, 36 epochs on COCO, short edge 448.

Published mask AP 32.6: RS-SOLOv2-light of Oksuz et al., ICCV 2021.
"""

from ..common.coco import RESNET_34, length, optimizer, resize, schedule, train
from ..common.coco import dataloader_masks as dataloader
from ..common.models.solov2 import light as model

dataloader.train.mapper.augmentations[0] = resize(352, 384, 416, 448, 480, 512, max_size=768)
dataloader.test.mapper.augmentations[0].update({"short_edge_length": 448, "max_size": 768})
dataloader.train.total_batch_size = 32
optimizer.lr = 0.012
# 3,665 iterations of 32 images per epoch: steps at 98,955 and 120,945, end at 131,940.
lr_multiplier = schedule(36, [27, 33])
lr_multiplier.factor = 0.01
train.update(length(36, batch=32))
train.clip_grad_norm = 35.0
train.init_checkpoint = RESNET_34
train.output_dir = "output/coco/solov2_light_rs_r34_36ep"
