"""SOLOv2, center region, focal loss: half-width ResNet-18, short run on shapes."""

from ...common.shapes_quick_solov2 import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick_solov2 import focal as model

train.output_dir = "output/shapes/quick/solov2_focal"
