"""The quick start: RetinaNet, ATSS, Rank & Sort Loss; 1,500 x 8 images = 12 epochs of 1,000."""

from ..common.resnet_half import WIDTH, bottom_up
from ..common.retinanet_r18 import model
from ..common.shapes import NUM_CLASSES, dataloader, lr_multiplier, optimizer, train

model.backbone.bottom_up = bottom_up
model.backbone.top_block.in_channels = 8 * WIDTH
model.head.norm = "GN"
model.num_classes = NUM_CLASSES
train.output_dir = "output/shapes/retinanet_atss_rs"
train.epochs = 12
train.max_iter = 1500
train.eval_period = 1500
train.checkpointer.period = 500
