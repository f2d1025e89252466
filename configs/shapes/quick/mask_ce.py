"""Mask R-CNN with cross entropy, of masks too, on the random samples that it needs."""

from ...common.shapes_quick_rcnn import dataloader_masks as dataloader
from ...common.shapes_quick_rcnn import lr_multiplier, optimizer, train
from ...common.shapes_quick_rcnn import mask_ce as model

train.output_dir = "output/shapes/quick/mask_ce"
