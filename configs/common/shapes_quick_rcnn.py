"""R-CNNs on the shapes at 128 px; ``dataloader_masks`` gives masks as well as boxes."""

from copy import deepcopy

from detectron2.config import LazyCall as L

from ranking_det.data.mapper import BoxMapper

from .rcnn_r18 import cascade, faster, faster_ce, faster_plus, mask, mask_ce
from .resnet_half import bottom_up
from .shapes import NUM_CLASSES
from .shapes_quick import dataloader, lr_multiplier, optimizer, train

dataloader_masks = deepcopy(dataloader)
dataloader_masks.train.mapper = L(BoxMapper)(
    augmentations=dataloader.train.mapper.augmentations, image_format="RGB", masks=True
)

for model in (faster, faster_ce, faster_plus, mask, mask_ce, cascade):
    model.backbone.bottom_up = bottom_up
    model.backbone.bottom_up.out_features = ["res2", "res3", "res4", "res5"]
    model.roi_heads.num_classes = NUM_CLASSES
    # An object as large in these images as one of 224 px in COCO's is on the same level.
    model.roi_heads.box_pooler.canonical_box_size = 40
for model in (mask, mask_ce):
    model.roi_heads.mask_pooler.canonical_box_size = 40
