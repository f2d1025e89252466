"""RetinaNet, PAA, Rank & Sort Loss, score voting: half-width ResNet-18, short run on shapes."""

from ...common.assigners import paa_rank_sort
from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import retinanet as model

model.assigner = paa_rank_sort()
model.inference.score_voting = True
train.output_dir = "output/shapes/quick/retinanet_paa_rs"
