"""RetinaNet, max-IoU, focal loss: ResNet-50, 12 epochs on COCO.

The baseline of the dense detectors (Lin et al., ICCV 2017). Published AP 35.4: RetinaNet in table 1
of RankDetNet (Liu et al., CVPR 2021).
"""

from ..common.coco import dataloader, length, optimizer, schedule, train
from ..common.models.retinanet_r50 import model

lr_multiplier = schedule(12, [8, 11])  # steps at 8 and 11 x 7,330 = 58,640 and 80,630
train.update(length(12))  # x 7,330 = 87,960
train.output_dir = "output/coco/retinanet_maxiou_focal_r50_12ep"
