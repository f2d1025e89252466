"""Cascade Mask R-CNN, max-IoU, Rank & Sort Loss: ResNet-50, 12 epochs on COCO.

RS-Cascade R-CNN (Oksuz et al., ICCV 2021) with masks. As in the authors' code, each stage has a
mask head, trained on the positives of that stage. We know of no published AP.
"""

from ..common.models.rcnn import with_masks
from ..common.models.rcnn_r50 import cascade
from .mask_rs_r50_12ep import dataloader, lr_multiplier, optimizer, train

model = with_masks(cascade, num_conv=4)
train.output_dir = "output/coco/cascade_mask_rs_r50_12ep"
