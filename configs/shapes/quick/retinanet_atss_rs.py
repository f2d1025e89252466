"""RetinaNet, ATSS, Rank & Sort Loss: half-width ResNet-18, short run on shapes.

Each of the other quick configs of dense detectors changes one part of this one.
"""

from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import retinanet as model

train.output_dir = "output/shapes/quick/retinanet_atss_rs"
