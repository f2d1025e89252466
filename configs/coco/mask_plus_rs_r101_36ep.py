"""RS-Mask R-CNN+ of Oksuz et al., ICCV 2021: ResNet-101, CARAFE, in several sizes.

In table S10 of the supplement: published mask AP 41.4, box AP 46.1.
"""

from ..common.coco import resize
from ..common.models.rcnn import with_carafe
from .mask_rs_r101_36ep import dataloader, lr_multiplier, model, optimizer, train

model = with_carafe(model)
dataloader.train.mapper.augmentations[0] = resize(480, 560, 640, 720, 800, 880, 960)
train.output_dir = "output/coco/mask_plus_rs_r101_36ep"
