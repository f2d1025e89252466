"""FCOS with Rank & Sort Loss."""

from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import fcos as model

train.output_dir = "output/shapes/quick/fcos_fcos_rs"
