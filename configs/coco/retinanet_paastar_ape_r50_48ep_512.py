"""APE Loss, PAA*(512) of table 9 (Xu et al., CVPR 2022): ResNet-50, published AP 41.1."""

from detectron2.config import LazyCall as L

from ranking_det.assigners import NormalizedPAA
from ranking_det.criteria import IoUWeight

from ..common.criteria import ape
from .retinanet_maxiou_ape_r50_48ep_512 import dataloader, lr_multiplier, model, optimizer, train

model.head.norm = "GN"
model.head.num_scales = 5
model.assigner = L(NormalizedPAA)(topk=9, min_iou=0.1)
model.criterion = ape(max_negatives=1_000_000, weight=L(IoUWeight)())
train.output_dir = "output/coco/retinanet_paastar_ape_r50_48ep_512"
