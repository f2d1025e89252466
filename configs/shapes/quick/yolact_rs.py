"""YOLACT, max-IoU, Rank & Sort Loss: half-width ResNet-18, short run on shapes.

The mask loss is Dice, weighted and balanced in the same way as the box loss.
"""

from ...common.shapes_quick_yolact import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "output/shapes/quick/yolact_rs"
