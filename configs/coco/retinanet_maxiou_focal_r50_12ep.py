"""RetinaNet, max-IoU, focal loss: ResNet-50, 12 epochs on COCO.

The baseline of the dense detectors (Lin et al., ICCV 2017). Published AP 35.4: RetinaNet in table 1
of RankDetNet (Liu et al., CVPR 2021).
"""

from ..common.coco import dataloader, length, optimizer, schedule, train
from ..common.models.retinanet_r50 import model

# 7,330 iterations per epoch: steps at 58,640 and 80,630, end at 87,960.
lr_multiplier = schedule(12, [8, 11])
train.update(length(12))
train.output_dir = "output/coco/retinanet_maxiou_focal_r50_12ep"
