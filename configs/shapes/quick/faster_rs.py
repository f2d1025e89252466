"""Faster R-CNN with Rank & Sort Loss in the RPN and the box head, and no sampler."""

from ...common.shapes_quick_rcnn import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick_rcnn import faster as model

train.output_dir = "output/shapes/quick/faster_rs"
