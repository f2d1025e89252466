"""RS-Cascade R-CNN with the mask head of RS-Mask R-CNN: ResNet-50, 12 epochs; in no paper."""

from ..common.rcnn import with_masks
from ..common.rcnn_r50 import cascade
from .mask_rs_r50_12ep import dataloader, lr_multiplier, optimizer, train

model = with_masks(cascade, num_conv=4)
train.output_dir = "output/coco/cascade_mask_rs_r50_12ep"
