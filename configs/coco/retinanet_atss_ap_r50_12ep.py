"""RetinaNet, ATSS, AP Loss: ResNet-50, 12 epochs on COCO.

Published AP 38.3: AP Loss with ATSS, a baseline of the paper on bucketed losses (ECCV 2024). We do
not know the instance weights of the box loss and give all positives the same weight.
"""

from ..common.criteria import ap_giou
from .retinanet_atss_rs_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model.criterion = ap_giou()
train.output_dir = "output/coco/retinanet_atss_ap_r50_12ep"
