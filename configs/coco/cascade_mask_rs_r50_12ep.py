"""RS-Cascade R-CNN with masks (Oksuz et al., ICCV 2021): ResNet-50, 12 epochs.

As published, there is one mask head per stage, each on that stage's positives. No published AP is
known to us.
"""

from ..common.models.rcnn import with_masks
from ..common.models.rcnn_r50 import cascade
from .mask_rs_r50_12ep import dataloader, lr_multiplier, optimizer, train

model = with_masks(cascade, num_conv=4)
train.output_dir = "output/coco/cascade_mask_rs_r50_12ep"
