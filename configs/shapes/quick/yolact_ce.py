"""YOLACT, max-IoU, cross entropy with hard negative mining.

Half-width ResNet-18, short run on shapes.
"""

from ...common.shapes_quick_yolact import baseline as model
from ...common.shapes_quick_yolact import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/shapes/quick/yolact_ce"
