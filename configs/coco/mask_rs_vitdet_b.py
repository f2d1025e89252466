"""Mask R-CNN, max-IoU, Rank & Sort Loss on ViTDet's ViT-B: 100 epochs on COCO at 1,024 px.

Needs Detectron2's main branch, because release 0.6 has no ViT. The augmentation, the number of
epochs, the learning-rate steps and the optimizer are those of ViTDet's config (Li et al., ECCV
2022). The warm-up of 500 iterations and the handling of cropped objects are our choice. No paper
reports an AP for this combination.
"""

from ..common.coco import iterations, length, schedule, train
from ..common.coco_lsj import dataloader
from ..common.models.vitdet_b import model, optimizer

dataloader.train.total_batch_size = 64
lr_multiplier = schedule(100, [89, 96])
train.update(length(100, batch=64))
train.checkpointer.period = iterations(1, batch=64)
train.eval_period = iterations(4, batch=64)
train.amp.enabled = True
train.init_checkpoint = (
    "detectron2://ImageNetPretrained/MAE/mae_pretrain_vit_base.pth?matching_heuristics=True"
)
train.output_dir = "output/coco/mask_rs_vitdet_b"
