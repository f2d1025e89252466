"""Faster R-CNN, CARAFE FPN, max-IoU, Rank & Sort Loss: ResNet-101, 36 epochs on COCO, multi-scale.

RS-Faster R-CNN+ (Oksuz et al., ICCV 2021). The paper has no such row: its row with ResNet-101 and
AP 47.6 (table S10 of the supplement) also uses deformable convolutions.
"""

from ..common.coco import dataloader, length, optimizer, resize, schedule, train
from ..common.models.rcnn import with_carafe
from ..common.models.rcnn_r50 import faster

model = with_carafe(faster, depth=101)
dataloader.train.mapper.augmentations[0] = resize(480, 560, 640, 720, 800, 880, 960)
optimizer.lr = 0.012
lr_multiplier = schedule(36, [27, 33])  # steps at 27 and 33 x 7,330 = 197,910 and 241,890
train.update(length(36))  # x 7,330 = 263,880
# python tools/convert_weights.py resnet101-63fe2227.pth R-101.pkl (torchvision's weights)
train.init_checkpoint = "R-101.pkl"
train.output_dir = "output/coco/faster_plus_rs_r101_36ep"
