"""YOLACT, max-IoU, cross entropy, hard negative mining: ResNet-50, 55 epochs on COCO at 550 px.

The baseline of RS-YOLACT (``yolact_rs_r50_55ep.py``). Published mask AP 28.5, with batches of 32
images: the code of Mask-aware IoU, by the same authors (Oksuz et al., BMVC 2021). mmdetection has
29.0 with 8 images and 28.4 with 64, with the learning rate in proportion.
"""

from ..common.coco import schedule
from ..common.models.yolact_r50 import baseline as model
from .yolact_rs_r50_55ep import dataloader, optimizer, train

optimizer.lr = 0.004
# 3,665 iterations per epoch: steps at 73,300, 153,930, 179,585 and 190,580, end at 201,575.
lr_multiplier = schedule(55, [20, 42, 49, 52])
lr_multiplier.factor = 0.1
train.output_dir = "output/coco/yolact_ce_r50_55ep"
