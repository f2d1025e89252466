"""RetinaNet, max-IoU, APE Loss: ResNet-50, 48 epochs on COCO at 512 px.

Published AP 38.3: Retina(512) in table 9 of Xu et al., CVPR 2022.
"""

from ..common.coco import dataloader_512 as dataloader
from ..common.coco import length, optimizer, schedule, train
from ..common.criteria import ape
from ..common.models.retinanet_r50 import squares_512 as model

model.criterion = ape(max_negatives=1_000_000)
model.inference.score_thresh, model.inference.nms_thresh = 0.15, 0.6
optimizer.lr = 0.004
# 7,330 iterations per epoch: steps at 234,560 and 322,520, end at 351,840.
lr_multiplier = schedule(48, [32, 44])
train.update(length(48))
train.output_dir = "output/coco/retinanet_maxiou_ape_r50_48ep_512"
