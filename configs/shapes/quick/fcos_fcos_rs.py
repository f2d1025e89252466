"""FCOS, FCOS assignment, Rank & Sort Loss: half-width ResNet-18, short run on shapes."""

from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import fcos as model

train.output_dir = "output/shapes/quick/fcos_fcos_rs"
