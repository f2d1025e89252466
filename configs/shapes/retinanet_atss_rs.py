"""The quick start: RetinaNet, ATSS, Rank & Sort Loss; 1,300 x 8 images = 10.4 epochs of 1,000."""

from ..common.resnet_half import WIDTH, bottom_up
from ..common.retinanet_r18 import model
from ..common.shapes import NUM_CLASSES, dataloader, lr_multiplier, optimizer, train

model.backbone.bottom_up = bottom_up
model.backbone.top_block.in_channels = 8 * WIDTH
model.head.norm = "GN"
model.num_classes = NUM_CLASSES
train.output_dir = "output/shapes/retinanet_atss_rs"
train.epochs = 10.4
train.max_iter = 1300
train.eval_period = 1300
train.checkpointer.period = 500
