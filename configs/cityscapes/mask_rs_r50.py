"""Mask R-CNN, max-IoU, Rank & Sort Loss: ResNet-50, 12 epochs of Cityscapes repeated 8 times.

Published mask AP 38.2, box AP 43.7: the Rank & Sort Loss row in the paper on bucketed losses
(ECCV 2024). Training starts from COCO weights, here from the result of
``configs/coco/mask_rs_r50_12ep.py``. Loading the data needs ``pip install cityscapesscripts
shapely``. The metric is COCO's AP, not that of the Cityscapes benchmark.
"""

from ..common.cityscapes import IMAGES, dataloader, length, optimizer, schedule, train
from ..common.models.rcnn_r50 import mask as model

model.roi_heads.num_classes = 8
optimizer.lr = 0.012
# 186 iterations per pass over the images: a step after 8 x 8 passes, 11,904; end after 12 x 8
# passes, 17,856.
lr_multiplier = schedule(12, [8])
train.update(length(12 * 8, images=IMAGES))
train.init_checkpoint = "output/coco/mask_rs_r50_12ep/model_final.pth"
train.output_dir = "output/cityscapes/mask_rs_r50"
