"""RS-Mask R-CNN on Cityscapes, by the schedule and sizes of Detectron2's own config for it.

The papers have no row for it. Weights trained on COCO (``train.init_checkpoint``) are a better
start than ImageNet's. Loading the data needs ``pip install cityscapesscripts shapely``. The AP is
COCO's, which is not that of Cityscapes' benchmark.
"""

from ..common.coco import dataloader_masks as dataloader
from ..common.coco import optimizer, resize, schedule, train
from ..common.rcnn_r50 import mask as model

model.roi_heads.num_classes = 8
dataloader.train.dataset.names = "cityscapes_fine_instance_seg_train"
dataloader.test.dataset.names = "cityscapes_fine_instance_seg_val"
dataloader.train.mapper.augmentations[0] = resize(800, 832, 864, 896, 928, 960, 992, 1024)
dataloader.train.mapper.augmentations[0].max_size = 2048
dataloader.test.mapper.augmentations[0].short_edge_length = 1024
dataloader.test.mapper.augmentations[0].max_size = 2048
dataloader.train.total_batch_size = 8
optimizer.lr = 0.006  # half the batch of COCO's .012
lr_multiplier = schedule(24, [18])  # in thousands of iterations
train.update({"reference_batch": 8, "iterations_per_epoch": 372, "max_iter": 24_000})
train.checkpointer.period = 4_000
train.eval_period = 8_000
train.output_dir = "output/cityscapes/mask_rs_r50"
