"""Faster R-CNN, max-IoU, Rank & Sort Loss, no sampling.

Half-width ResNet-18, short run on shapes.
"""

from ...common.shapes_quick_rcnn import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick_rcnn import faster as model

train.output_dir = "output/shapes/quick/faster_rs"
