"""Mask R-CNN with Rank & Sort Loss; Dice masks, weighted and balanced as its boxes are."""

from ...common.shapes_quick_rcnn import dataloader_masks as dataloader
from ...common.shapes_quick_rcnn import lr_multiplier, optimizer
from ...common.shapes_quick_rcnn import mask as model
from ...common.shapes_quick_rcnn import train_masks as train

train.output_dir = "output/shapes/quick/mask_rs"
