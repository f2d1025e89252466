"""RetinaNet, PAA*, APE Loss: Res2Net-101 with DCN, 36 epochs on COCO, multi-scale.

Published AP 50.0 on test-dev: PAA*(800) with Res2Net-101-FPN-DCN in table 9 of Xu et al., CVPR
2022. The authors' code has other settings for PAA* (lam 8, score threshold .25, NMS .6) than for
FCOS (2, .15, .5) with this backbone; the config uses those for PAA*, the assigner of this row.
"""

from detectron2.config import LazyCall as L

from ranking_det.assigners import NormalizedPAA
from ranking_det.criteria import IoUWeight

from ..common.coco import RES2NET_101, length, resize_between, schedule
from ..common.criteria import ape
from ..common.models.backbones import deformable, res2net_101
from .retinanet_atss_ape_r50_24ep import dataloader, model, optimizer, train

model.backbone.bottom_up = deformable(res2net_101(first=3), deformable_groups=1)
model.assigner = L(NormalizedPAA)(topk=9, min_iou=0.1)
model.criterion = ape(weight=L(IoUWeight)())
model.inference.score_thresh = 0.25
dataloader.train.mapper.augmentations[0] = resize_between(480, 960)
# 7,330 iterations per epoch: steps at 197,910 and 241,890, end at 263,880.
lr_multiplier = schedule(36, [27, 33])
train.update(length(36))
train.init_checkpoint = RES2NET_101
train.output_dir = "output/coco/retinanet_paastar_ape_r2_101_dcn_36ep"
