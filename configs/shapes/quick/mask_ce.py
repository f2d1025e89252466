"""Mask R-CNN, max-IoU, cross entropy, random sampling.

Half-width ResNet-18, short run on shapes.
"""

from ...common.shapes_quick_rcnn import dataloader_masks as dataloader
from ...common.shapes_quick_rcnn import lr_multiplier, optimizer
from ...common.shapes_quick_rcnn import mask_ce as model
from ...common.shapes_quick_rcnn import train_masks as train

train.output_dir = "output/shapes/quick/mask_ce"
