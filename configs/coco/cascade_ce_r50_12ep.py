"""Cascade R-CNN, max-IoU, cross entropy, random sampling: ResNet-50, 12 epochs on COCO.

Published AP 40.3: Cascade R-CNN in table S5 of the supplement of Oksuz et al., ICCV 2021, the
baseline of ``cascade_rs_r50_12ep.py``. The supplement does not give its settings. Loss weights,
box coders and learning rate are the standard ones (Cai and Vasconcelos, CVPR 2018); the box loss is
L1, as in Detectron2. At inference, the logits of the stages are averaged, not the probabilities, as
in all cascades here.
"""

from ..common.models.rcnn_r50 import cascade_ce as model
from .faster_rs_r50_12ep import dataloader, lr_multiplier, optimizer, train

optimizer.lr = 0.02
train.output_dir = "output/coco/cascade_ce_r50_12ep"
