"""RetinaNet, PAA, Rank & Sort Loss, score voting: ResNet-50, 12 epochs on COCO.

Published AP 41.0: RS-PAA of Oksuz et al., ICCV 2021, quoted as PAA(800) in table 9 of APE Loss (Xu
et al., CVPR 2022).
"""

from ..common.assigners import paa_rank_sort
from .retinanet_atss_rs_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model.assigner = paa_rank_sort()
model.inference.score_voting = True
train.output_dir = "output/coco/retinanet_paa_rs_r50_12ep"
