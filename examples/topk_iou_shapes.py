"""Train RetinaNet on shapes at 128 px, with Rank & Sort Loss and the assigner of topk_iou.py."""

from detectron2.config import LazyCall as L

from examples.topk_iou import TopKIoU

from ..configs.common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ..configs.common.shapes_quick import retinanet as model

model.assigner = L(TopKIoU)(topk=9, min_iou=0.2)
train.output_dir = "output/examples/topk_iou"
