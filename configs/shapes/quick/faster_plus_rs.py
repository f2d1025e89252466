"""Faster R-CNN with CARAFE FPN and Rank & Sort Loss: the papers' RS-Faster R-CNN+."""

from ...common.shapes_quick_rcnn import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick_rcnn import faster_plus as model

train.output_dir = "output/shapes/quick/faster_plus_rs"
