"""SOLOv2, center region, Rank & Sort Loss: half-width ResNet-18, short run on shapes.

The positives are sorted by the Dice coefficients of their masks.
"""

from ...common.shapes_quick_solov2 import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick_solov2 import ranking as model

train.output_dir = "output/shapes/quick/solov2_rs"
