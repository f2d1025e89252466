"""Faster R-CNN, max-IoU, cross entropy, random sampling: ResNet-50, 12 epochs on COCO.

The baseline in table S8 of the supplement of Oksuz et al., ICCV 2021. Published AP 37.6. The table
reports 32.7 without the RPN's sampler and 30.1 without either sampler; override the samplers to
train those rows. The box head is trained with GIoU Loss, the RPN with L1 loss. The paper does not
give the weight of the GIoU Loss; 10 is the usual value.
"""

from ..common.criteria import cross_entropy_giou
from ..common.models.rcnn_r50 import faster_ce as model
from .faster_rs_r50_12ep import dataloader, lr_multiplier, optimizer, train

model.roi_heads.criterion = cross_entropy_giou()
optimizer.lr = 0.02
train.output_dir = "output/coco/faster_ce_r50_12ep"
