"""Faster R-CNN, max-IoU, cross entropy, random sampling: ResNet-50, 12 epochs on COCO.

The baseline in table S8 of Oksuz et al., ICCV 2021. Published AP 37.6. Without the RPN's sampler
the paper reports 32.7, without both samplers 30.1; override the samplers to train those rows. The
box head has GIoU Loss, the RPN L1 loss. The GIoU weight of 10 is the usual one; the paper gives
none.
"""

from ..common.criteria import cross_entropy_giou
from ..common.models.rcnn_r50 import faster_ce as model
from .faster_rs_r50_12ep import dataloader, lr_multiplier, optimizer, train

model.roi_heads.criterion = cross_entropy_giou()
optimizer.lr = 0.02
train.output_dir = "output/coco/faster_ce_r50_12ep"
