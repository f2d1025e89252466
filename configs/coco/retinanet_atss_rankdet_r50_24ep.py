"""RankDetNet (Liu et al., CVPR 2021), table 1: FCOS-ATSS, ResNet-50, published AP 40.7."""

from ..common.criteria import atss_focal, rankdet_centerness
from ..common.models.retinanet_r50 import atss as model
from .retinanet_maxiou_rankdet_r50_24ep import dataloader, lr_multiplier, optimizer, train
from .retinanet_maxiou_rankdet_r50_24ep import model as retinanet

model.criterion = retinanet.criterion
model.criterion.stages = [atss_focal(), rankdet_centerness()]
model.inference = retinanet.inference
train.output_dir = "output/coco/retinanet_atss_rankdet_r50_24ep"
