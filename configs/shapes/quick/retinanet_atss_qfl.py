"""RetinaNet, ATSS, quality focal loss: half-width ResNet-18, short run on shapes."""

from ...common.criteria import quality_focal
from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import retinanet as model

model.criterion = quality_focal()
train.output_dir = "output/shapes/quick/retinanet_atss_qfl"
