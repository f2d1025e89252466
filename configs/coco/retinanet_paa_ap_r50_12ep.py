"""RetinaNet, PAA, AP Loss, score voting: ResNet-50, 12 epochs on COCO.

Published AP 37.3: AP Loss with PAA, a baseline of the paper on bucketed losses (ECCV 2024). We do
not know the instance weights of the box loss and give all positives the same weight.
"""

from ..common.assigners import paa_rank_sort
from ..common.criteria import ap_giou
from .retinanet_atss_rs_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model.assigner = paa_rank_sort()
model.criterion = ap_giou()
model.inference.score_voting = True
train.output_dir = "output/coco/retinanet_paa_ap_r50_12ep"
