"""RetinaNet, max-IoU, Rank & Sort Loss: half-width ResNet-18, short run on shapes."""

from detectron2.config import LazyCall as L

from ranking_det.assigners import MaxIoU

from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import retinanet as model

model.assigner = L(MaxIoU)()
train.output_dir = "output/shapes/quick/retinanet_maxiou_rs"
