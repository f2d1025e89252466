"""RetinaNet, ATSS, APE Loss: ResNet-50, 48 epochs on COCO at 512 px.

Published AP 39.9: ATSS(512) in table 9 of Xu et al., CVPR 2022.
"""

from detectron2.config import LazyCall as L

from ranking_det.assigners import ATSS

from .retinanet_maxiou_ape_r50_48ep_512 import dataloader, lr_multiplier, model, optimizer, train

model.assigner = L(ATSS)(topk=9)
train.output_dir = "output/coco/retinanet_atss_ape_r50_48ep_512"
