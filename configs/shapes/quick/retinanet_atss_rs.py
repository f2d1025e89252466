"""RetinaNet, ATSS, Rank & Sort Loss: half-width ResNet-18, short run on shapes.

The other quick configs of dense detectors differ from this one in the detector, the assigner, the
criterion or the backbone.
"""

from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import retinanet as model

train.output_dir = "output/shapes/quick/retinanet_atss_rs"
