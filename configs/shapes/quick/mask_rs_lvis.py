"""Mask R-CNN, max-IoU, Rank & Sort Loss: half-width ResNet-18, short run on the long-tailed shapes.

Trains with repeat factor sampling, which repeats images with rare classes.
"""

from detectron2.config import LazyCall as L

from ranking_det.data.repeat import repeat_rare
from ranking_det.data.shapes import CATEGORIES

from ...common.shapes_quick_rcnn import dataloader_masks as dataloader
from ...common.shapes_quick_rcnn import lr_multiplier, optimizer, train
from ...common.shapes_quick_rcnn import mask as model

model.roi_heads.num_classes = len(CATEGORIES["shapes_lvis"])
dataloader.train.dataset.names = "shapes_lvis_train"
dataloader.train.dataset = L(repeat_rare)(dataset=dataloader.train.dataset, threshold=0.007)
dataloader.test.dataset.names = "shapes_lvis_val"
# An epoch has 979 images with objects and 20 repeats, so it is about as long as in the other runs.
# This config has fewer epochs, because its steps take longer with more classes.
train.update({"epochs": 2, "max_iter": 250, "eval_period": 250})
train.output_dir = "output/shapes/quick/mask_rs_lvis"
