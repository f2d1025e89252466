"""Faster R-CNN, max-IoU, cross entropy, GIoU Loss, sampling: ResNet-50, 100 epochs at 512 px.

Published AP 38.2: the baseline of aLRP Loss (Oksuz et al., NeurIPS 2020) on COCO. We know neither
the learning rate nor the weight of the GIoU Loss and use the usual values: .02 for 16 images per
batch, scaled to 32, and 10. The RPN has L1 loss.
"""

from ..common.criteria import cross_entropy_giou
from ..common.models.rcnn_r50 import faster_ce as model
from .faster_alrp_r50_100ep_512 import dataloader, lr_multiplier, optimizer, train

model.roi_heads.criterion = cross_entropy_giou()
optimizer.lr = 0.04
train.output_dir = "output/coco/faster_ce_giou_r50_100ep_512"
