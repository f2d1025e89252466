"""Cascade R-CNN, max-IoU, Rank & Sort Loss: half-width ResNet-18, short run on shapes."""

from ...common.shapes_quick_rcnn import cascade as model
from ...common.shapes_quick_rcnn import dataloader, lr_multiplier, optimizer, train

# Shorter than the other runs, because each step takes longer.
train.update({"epochs": 2, "max_iter": 250, "eval_period": 250})
train.output_dir = "output/shapes/quick/cascade_rs"
