"""RS-Mask R-CNN on Cityscapes: published box AP 43.7, mask AP 38.2.

The row of Rank & Sort Loss in the paper of bucketed losses (ECCV 2024): 12 epochs of 8 repeats of
the images, from weights trained on COCO, here those of ``configs/coco/mask_rs_r50_12ep.py``.
Loading the data needs ``pip install cityscapesscripts shapely``. The AP is COCO's, which is not
that of Cityscapes' benchmark.
"""

from ..common.coco import dataloader_masks as dataloader
from ..common.coco import iterations, length, optimizer, schedule, train
from ..common.rcnn_r50 import mask as model

IMAGES = 2_975

model.roi_heads.num_classes = 8
dataloader.train.dataset.names = "cityscapes_fine_instance_seg_train"
dataloader.test.dataset.names = "cityscapes_fine_instance_seg_val"
_resize = dataloader.train.mapper.augmentations[0]
_resize.update({"short_edge_length": [800, 1024], "max_size": 2048, "sample_style": "range"})
dataloader.test.mapper.augmentations[0].short_edge_length = 1024
dataloader.test.mapper.augmentations[0].max_size = 2048
optimizer.lr = 0.012
lr_multiplier = schedule(12, [8])  # a step at 8 x 8 x 186 = 11,904
train.update(length(12 * 8, images=IMAGES))  # x 186 = 17,856
train.checkpointer.period = iterations(8, images=IMAGES)
train.eval_period = iterations(4 * 8, images=IMAGES)
train.init_checkpoint = "output/coco/mask_rs_r50_12ep/model_final.pth"
train.output_dir = "output/cityscapes/mask_rs_r50"
