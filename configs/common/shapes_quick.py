"""The shapes at 128 px: 400 x 8 images = 3.2 epochs of 1,000, some two minutes on two CPU cores."""

from .fcos_r18 import model as fcos
from .resnet_half import WIDTH, bottom_up
from .retinanet_r18 import model as retinanet
from .shapes import NUM_CLASSES, dataloader, lr_multiplier, optimizer, train

for mapper in (dataloader.train.mapper, dataloader.test.mapper):
    mapper.augmentations[0].short_edge_length = 128
    mapper.augmentations[0].max_size = 128

for model in (retinanet, fcos):
    model.backbone.bottom_up = bottom_up
    model.backbone.top_block.in_channels = 8 * WIDTH
    model.head.norm = "GN"
    model.num_classes = NUM_CLASSES

lr_multiplier.iterations = 20  # of warm-up
train.epochs = 3.2
train.max_iter = 400
train.eval_period = 400
train.checkpointer.period = 200
