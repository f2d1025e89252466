"""Faster R-CNN with cross entropy, on the random samples that it needs."""

from ...common.shapes_quick_rcnn import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick_rcnn import faster_ce as model

train.output_dir = "output/shapes/quick/faster_ce"
