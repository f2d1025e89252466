"""APE Loss."""

from ...common.criteria import ape
from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import retinanet as model

model.criterion = ape
model.criterion.classification.max_negatives = 5_000  # the images are small
train.output_dir = "output/shapes/quick/retinanet_atss_ape"
