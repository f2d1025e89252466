"""RetinaNet, PAA*, APE Loss: ResNeXt-101 with DCN, 24 epochs on COCO, multi-scale.

Published AP 49.0 on test-dev: PAA*(800) with ResNeXt-101-FPN-DCN (64 x 4d) in table 9 of Xu et al.,
CVPR 2022. The authors' code has other settings for PAA* (lam 8, score threshold .25, NMS .6) than
for FCOS (2, .15, .5) with this backbone; the config uses those for PAA*, the assigner of this row.
"""

from detectron2.config import LazyCall as L

from ranking_det.assigners import NormalizedPAA
from ranking_det.criteria import IoUWeight

from ..common.coco import RESNEXT_101, resize_between
from ..common.criteria import ape
from ..common.models.backbones import deformable, resnext_101
from .retinanet_atss_ape_r50_24ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = deformable(resnext_101(first=3), deformable_groups=1)
model.assigner = L(NormalizedPAA)(topk=9, min_iou=0.1)
model.criterion = ape(weight=L(IoUWeight)())
model.inference.score_thresh = 0.25
dataloader.train.mapper.augmentations[0] = resize_between(480, 960)
train.init_checkpoint = RESNEXT_101
train.output_dir = "output/coco/retinanet_paastar_ape_x101_dcn_24ep"
