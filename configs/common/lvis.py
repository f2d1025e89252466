"""LVIS v1 data loader and schedule of the paper on Rank & Sort Loss, with repeat factor sampling.

There are 99,388 images with objects. With the repeats of images with rare classes, an epoch has at
most 122,784 images: 7,674 iterations of 16.
"""

from detectron2.config import LazyCall as L

from ranking_det.data.repeat import repeat_rare

from .coco import dataloader_masks as dataloader
from .coco import iterations, length, optimizer, resize, schedule, train

NUM_CLASSES = 1203
IMAGES = 16 * 7674

dataloader.train.dataset.names = "ranking_lvis_v1_train"
dataloader.train.dataset = L(repeat_rare)(dataset=dataloader.train.dataset, threshold=0.001)
dataloader.train.mapper.augmentations[0] = resize(640, 672, 704, 736, 768, 800)
dataloader.test.dataset.names = "ranking_lvis_v1_val"

train.checkpointer.period = iterations(1, images=IMAGES)
train.eval_period = iterations(4, images=IMAGES)
