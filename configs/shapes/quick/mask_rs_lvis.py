"""Mask R-CNN with Rank & Sort Loss on the long-tailed shapes, images of rare classes repeated."""

from detectron2.config import LazyCall as L

from ranking_det.data.repeat import repeat_rare
from ranking_det.data.shapes import categories_of

from ...common.shapes_quick_rcnn import dataloader_masks as dataloader
from ...common.shapes_quick_rcnn import lr_multiplier, optimizer, train
from ...common.shapes_quick_rcnn import mask as model

model.roi_heads.num_classes = len(categories_of("shapes_lvis"))
model.roi_heads.box_predictor.test_topk_per_image = 300
dataloader.train.dataset.names = "shapes_lvis_train"
dataloader.train.dataset = L(repeat_rare)(dataset=dataloader.train.dataset, threshold=0.012)
dataloader.test.dataset.names = "shapes_lvis_val"
# 979 images with objects become 1,171.
train.update({"epochs": 2, "iterations_per_epoch": 147, "max_iter": 294, "eval_period": 294})
train.checkpointer.period = 147
train.output_dir = "output/shapes/quick/mask_rs_lvis"
