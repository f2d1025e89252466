"""Faster R-CNN, max-IoU, cross entropy, smooth L1, sampling: ResNet-50, 100 epochs at 512 px.

Published AP 37.8: the baseline of aLRP Loss (Oksuz et al., NeurIPS 2020) on COCO. We do not know
the learning rate and use the usual .02 for 16 images per batch, scaled to 32. The RPN has L1 loss,
and the box head has smooth L1 with a beta of 1, as in Ren et al., NeurIPS 2015.
"""

from ..common.criteria import cross_entropy
from ..common.models.rcnn_r50 import faster_ce as model
from .faster_alrp_r50_100ep_512 import dataloader, lr_multiplier, optimizer, train

model.roi_heads.criterion = cross_entropy(beta=1.0)
optimizer.lr = 0.04
train.output_dir = "output/coco/faster_ce_l1_r50_100ep_512"
