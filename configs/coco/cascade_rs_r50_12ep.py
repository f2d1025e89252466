"""RS-Cascade R-CNN of Oksuz et al., ICCV 2021: ResNet-50, 12 epochs, published AP 41.3."""

from ..common.models.rcnn_r50 import cascade as model
from .faster_rs_r50_12ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/coco/cascade_rs_r50_12ep"
