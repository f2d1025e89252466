"""COCO data loader with masks for ViTDet: large-scale jitter (LSJ), square crops of 1,024 px."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .coco import dataloader_masks as dataloader

SIZE = 1024

dataloader.train.mapper.augmentations = [
    L(T.RandomFlip)(),
    L(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=SIZE, target_width=SIZE),
    L(T.FixedSizeCrop)(crop_size=[SIZE, SIZE], pad=False),
]
dataloader.test.mapper.augmentations[0].update({"short_edge_length": SIZE, "max_size": SIZE})
