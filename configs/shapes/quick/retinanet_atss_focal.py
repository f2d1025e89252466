"""RetinaNet, ATSS, focal loss, GIoU Loss: half-width ResNet-18, short run on shapes."""

from ...common.criteria import focal_giou
from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import retinanet as model

model.criterion = focal_giou()
train.output_dir = "output/shapes/quick/retinanet_atss_focal"
