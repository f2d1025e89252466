"""Faster R-CNN, max-IoU, Rank & Sort Loss: ResNet-50, 100 epochs on COCO at 512 px.

Published AP 41.2: RS Loss after epoch 100 of the heavy training in table S2 of the supplement of
Oksuz et al., ICCV 2021. The supplement does not give the steps of the learning rate; we use those
of aLRP Loss in the same table. It does not give the score threshold either. The row of aLRP Loss
has .05; we use the .40 of RS-Faster R-CNN, for which the supplement reports the same AP as at .05.
"""

from ..common.models.rcnn_r50 import faster as model
from .faster_alrp_r50_100ep_512 import dataloader, lr_multiplier, optimizer, train

optimizer.lr = 0.024
train.output_dir = "output/coco/faster_rs_r50_100ep_512"
