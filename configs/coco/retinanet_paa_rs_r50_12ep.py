"""RS-PAA of Oksuz et al., ICCV 2021: ResNet-50, 12 epochs, published AP 41.0."""

from detectron2.config import LazyCall as L

from ranking_det.assigners import PAA

from .retinanet_atss_rs_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model.assigner = L(PAA)(topk=9, min_iou=0.1, single_candidate="none", box_weight=1.0)
model.inference.score_voting = True
train.output_dir = "output/coco/retinanet_paa_rs_r50_12ep"
