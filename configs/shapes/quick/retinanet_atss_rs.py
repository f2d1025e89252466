"""RetinaNet, ATSS, Rank & Sort Loss: the other files change one thing each."""

from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import retinanet as model

train.output_dir = "output/shapes/quick/retinanet_atss_rs"
