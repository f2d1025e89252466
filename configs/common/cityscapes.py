"""Cityscapes data loader and schedule of the paper on bucketed losses (ECCV 2024).

Each of the 12 epochs uses every image 8 times: 12 x 8 x 186 iterations of 16 images.
"""

from .coco import dataloader_masks as dataloader
from .coco import iterations, length, optimizer, schedule, train

IMAGES = 2_975

dataloader.train.dataset.names = "cityscapes_fine_instance_seg_train"
dataloader.test.dataset.names = "cityscapes_fine_instance_seg_val"
_resize = dataloader.train.mapper.augmentations[0]
_resize.update({"short_edge_length": [800, 1024], "max_size": 2048, "sample_style": "range"})
dataloader.test.mapper.augmentations[0].short_edge_length = 1024
dataloader.test.mapper.augmentations[0].max_size = 2048
train.checkpointer.period = iterations(8, images=IMAGES)
train.eval_period = iterations(4 * 8, images=IMAGES)
