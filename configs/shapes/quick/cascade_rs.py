"""Cascade R-CNN with Rank & Sort Loss in the RPN and each of three stages."""

from ...common.shapes_quick_rcnn import cascade as model
from ...common.shapes_quick_rcnn import dataloader, lr_multiplier, optimizer, train

# Shorter than the others, as each of its steps is longer.
train.update({"epochs": 2, "max_iter": 250, "eval_period": 250})
train.output_dir = "output/shapes/quick/cascade_rs"
