"""RetinaNet, ATSS, focal loss then RankDetNet's losses: ResNet-50, 24 epochs on COCO.

Published AP 40.7: FCOS-ATSS in table 1 of RankDetNet (Liu et al., CVPR 2021).
"""

from ..common.criteria import atss_focal, rankdet_centerness
from ..common.models.retinanet_r50 import atss as model
from .retinanet_maxiou_rankdet_r50_24ep import dataloader, lr_multiplier, optimizer, train
from .retinanet_maxiou_rankdet_r50_24ep import model as retinanet

model.criterion = retinanet.criterion
model.criterion.stages = [atss_focal(), rankdet_centerness()]
model.inference = retinanet.inference
train.output_dir = "output/coco/retinanet_atss_rankdet_r50_24ep"
