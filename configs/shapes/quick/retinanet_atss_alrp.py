"""RetinaNet, ATSS, aLRP Loss: half-width ResNet-18, short run on shapes.

The balance of the two losses is updated once per epoch.
"""

from ...common.criteria import alrp
from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import retinanet as model

model.criterion = alrp()
train.output_dir = "output/shapes/quick/retinanet_atss_alrp"
