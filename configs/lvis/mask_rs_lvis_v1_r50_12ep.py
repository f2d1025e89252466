"""Mask R-CNN, max-IoU, Rank & Sort Loss: ResNet-50, 12 epochs on LVIS v1.

Published mask AP 25.2, box AP 25.9: RS-Mask R-CNN at the score threshold .60 in table S11 of the
supplement of Oksuz et al., ICCV 2021.
"""

from ..common.lvis import IMAGES, NUM_CLASSES, dataloader, length, optimizer, schedule, train
from ..common.models.rcnn_r50 import mask as model

model.roi_heads.num_classes = NUM_CLASSES
model.roi_heads.box_predictor.test_score_thresh = 0.6
model.roi_heads.box_predictor.test_topk_per_image = 300
optimizer.lr = 0.012
# 7,674 iterations per epoch: steps at 61,392 and 84,414, end at 92,088.
lr_multiplier = schedule(12, [8, 11])
train.update(length(12, images=IMAGES))
train.output_dir = "output/lvis/mask_rs_lvis_v1_r50_12ep"
