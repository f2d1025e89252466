"""APE Loss, ATSS(512) of table 9 (Xu et al., CVPR 2022): ResNet-50, published AP 39.9."""

from detectron2.config import LazyCall as L

from ranking_det.assigners import ATSS

from .retinanet_maxiou_ape_r50_48ep_512 import dataloader, lr_multiplier, model, optimizer, train

model.assigner = L(ATSS)(topk=9)
train.output_dir = "output/coco/retinanet_atss_ape_r50_48ep_512"
