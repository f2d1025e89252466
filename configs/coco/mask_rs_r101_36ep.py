"""Mask R-CNN, max-IoU, Rank & Sort Loss: ResNet-101, 36 epochs on COCO, multi-scale.

Published mask AP 40.3, box AP 44.7: RS-Mask R-CNN in table S10 of the supplement of Oksuz et al.,
ICCV 2021.
"""

from ..common.coco import dataloader_masks as dataloader
from ..common.coco import length, optimizer, resize, schedule, train
from ..common.models.rcnn_r50 import mask as model

model.backbone.bottom_up.stages.depth = 101
dataloader.train.mapper.augmentations[0] = resize(640, 672, 704, 736, 768, 800)
optimizer.lr = 0.012
lr_multiplier = schedule(36, [27, 33])  # steps at 27 and 33 x 7,330 = 197,910 and 241,890
train.update(length(36))  # x 7,330 = 263,880
# python tools/convert_weights.py resnet101-63fe2227.pth R-101.pkl (torchvision's weights)
train.init_checkpoint = "R-101.pkl"
train.output_dir = "output/coco/mask_rs_r101_36ep"
