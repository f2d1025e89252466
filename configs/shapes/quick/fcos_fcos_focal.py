"""FCOS, FCOS assignment, focal loss, centerness branch.

Half-width ResNet-18, short run on shapes.
"""

from ...common.criteria import fcos_focal
from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import fcos as model

model.criterion = fcos_focal()
model.head.branch = True
train.output_dir = "output/shapes/quick/fcos_fcos_focal"
