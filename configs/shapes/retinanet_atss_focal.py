"""RetinaNet, ATSS, focal loss, GIoU Loss: half-width ResNet-18, 10.4 epochs on the shapes.

Only the criterion differs from ``retinanet_atss_rs.py``.
"""

from ..common.criteria import focal_giou
from .retinanet_atss_rs import dataloader, lr_multiplier, model, optimizer, train

model.criterion = focal_giou()
train.output_dir = "output/shapes/retinanet_atss_focal"
