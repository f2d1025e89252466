"""FCOS, PAA*, APE Loss: half-width ResNet-18, short run on shapes."""

from detectron2.config import LazyCall as L

from ranking_det.assigners import NormalizedPAA

from ...common.criteria import ape
from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import fcos as model

model.assigner = L(NormalizedPAA)()
model.criterion = ape(max_negatives=25_000)  # of 33,000 logits per batch
train.output_dir = "output/shapes/quick/fcos_paastar_ape"
