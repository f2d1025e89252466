"""Short runs of YOLACT on the shapes at 128 px: a few minutes on two CPU cores.

400 iterations x 8 images = 3.2 epochs of 1,000 images.
"""

from .models.backbones import resnet_18_half
from .models.yolact_r18 import baseline, model
from .shapes import NUM_CLASSES, build_dataloader, length, optimizer, schedule, train

dataloader = build_dataloader(size=128, masks=True)
lr_multiplier = schedule(iterations=20)
train.update(length(3.2))
train.checkpointer.period = 200

for node in (model, baseline):
    node.backbone.bottom_up = resnet_18_half(first=3)
    node.backbone.top_block.in_channels = node.backbone.bottom_up.stages[-1].out_channels
    node.backbone.norm = node.head.norm = node.mask_branch.norm = "GN"
    node.num_classes = NUM_CLASSES
