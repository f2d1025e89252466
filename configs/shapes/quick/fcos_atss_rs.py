"""FCOS, ATSS, Rank & Sort Loss: half-width ResNet-18, short run on shapes."""

from detectron2.config import LazyCall as L

from ranking_det.assigners import ATSS

from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import fcos as model

model.assigner = L(ATSS)()
train.output_dir = "output/shapes/quick/fcos_atss_rs"
