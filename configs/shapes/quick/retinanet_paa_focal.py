"""RetinaNet, PAA, focal loss, IoU branch, score voting.

Half-width ResNet-18, short run on shapes.
"""

from detectron2.config import LazyCall as L

from ranking_det.assigners import PAA

from ...common.criteria import paa_focal
from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import retinanet as model

model.assigner = L(PAA)()
model.criterion = paa_focal()
model.head.branch = True
model.inference.score_voting = True
train.output_dir = "output/shapes/quick/retinanet_paa_focal"
