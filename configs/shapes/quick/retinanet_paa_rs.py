"""Probabilistic anchor assignment, with score voting."""

from detectron2.config import LazyCall as L

from ranking_det.assigners import PAA

from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import retinanet as model

model.assigner = L(PAA)(single_candidate="none")
model.inference.score_voting = True
train.output_dir = "output/shapes/quick/retinanet_paa_rs"
