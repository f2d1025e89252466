"""RetinaNet, ATSS, AP Loss: half-width ResNet-18, short run on shapes.

The box loss, its weights and its balance are the same as with Rank & Sort Loss.
"""

from detectron2.config import LazyCall as L

from ranking_det.criteria import AveragePrecision

from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import retinanet as model

model.criterion.classification = L(AveragePrecision)()
train.output_dir = "output/shapes/quick/retinanet_atss_ap"
