"""Cascade R-CNN with Rank & Sort Loss in the RPN and each of three stages."""

from ...common.shapes_quick_rcnn import cascade as model
from ...common.shapes_quick_rcnn import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/shapes/quick/cascade_rs"
