"""RetinaNet, max-IoU, focal loss, smooth L1: half-width ResNet-18, 10.4 epochs on the shapes.

The baseline: assigner and losses are the same as in Detectron2's RetinaNet. Everything else is the
same as in ``retinanet_atss_rs.py``.
"""

from detectron2.config import LazyCall as L

from ranking_det.assigners import MaxIoU

from ..common.criteria import focal_smooth_l1
from .retinanet_atss_rs import dataloader, lr_multiplier, model, optimizer, train

model.assigner = L(MaxIoU)(positive_iou=0.5, negative_iou=0.4, low_quality="anchor")
model.criterion = focal_smooth_l1(weights=model.box2box_transform.weights)
train.output_dir = "output/shapes/retinanet_maxiou_focal"
