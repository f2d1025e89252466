"""RetinaNet, ATSS, APE Loss: half-width ResNet-18, short run on shapes."""

from ...common.criteria import ape
from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import retinanet as model

model.criterion = ape(max_negatives=25_000)  # of 98,000 logits per batch
train.output_dir = "output/shapes/quick/retinanet_atss_ape"
