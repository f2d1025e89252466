"""RS-Mask R-CNN+ of Oksuz et al., ICCV 2021: CARAFE, published mask AP 37.3, box AP 41.1."""

from ..common.models.rcnn import with_carafe
from .mask_rs_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model = with_carafe(model)
train.output_dir = "output/coco/mask_plus_rs_r50_12ep"
