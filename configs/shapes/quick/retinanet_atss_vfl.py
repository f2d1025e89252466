"""RetinaNet, ATSS, varifocal loss: half-width ResNet-18, short run on shapes."""

from ...common.criteria import varifocal
from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import retinanet as model

model.criterion = varifocal()
train.output_dir = "output/shapes/quick/retinanet_atss_vfl"
