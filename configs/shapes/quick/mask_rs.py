"""Mask R-CNN, max-IoU, Rank & Sort Loss: half-width ResNet-18, short run on shapes.

The mask loss is Dice, weighted and balanced in the same way as the box loss.
"""

from ...common.shapes_quick_rcnn import dataloader_masks as dataloader
from ...common.shapes_quick_rcnn import lr_multiplier, optimizer
from ...common.shapes_quick_rcnn import mask as model
from ...common.shapes_quick_rcnn import train_masks as train

train.output_dir = "output/shapes/quick/mask_rs"
