"""RetinaNet, max-IoU, AP Loss: ResNet-101, 100 epochs on COCO at 512 px.

Published AP 37.4 on test-dev: AP Loss (Chen et al., CVPR 2019), quoted in table 2 of RankDetNet
(Liu et al., CVPR 2021). Table 9 of APE Loss (Xu et al., CVPR 2022) quotes 42.1 for its multi-scale
test: ``train.tta.enabled=True dataloader.test.mapper.augmentations=[]``. The second override passes
unscaled images to the test-time augmentation. The test sizes are our choice, because these papers
do not give them. Batch size and learning rate are those of Chen et al.
"""

from ..common.coco import RESNET_101, length, schedule
from ..common.criteria import ap
from .retinanet_maxiou_alrp_r50_100ep_512 import dataloader, model, optimizer, train

dataloader.train.total_batch_size = 8
model.backbone.bottom_up.stages.depth = 101
model.criterion = ap()
optimizer.lr = 0.001
# 14,659 iterations per epoch: steps at 879,540 and 1,172,720, end at 1,465,900.
lr_multiplier = schedule(100, [60, 80])
train.update(length(100, batch=8))
train.tta.update({"min_sizes": [400, 500, 600, 700, 800], "max_size": 1333, "flip": True})
train.init_checkpoint = RESNET_101
train.output_dir = "output/coco/retinanet_maxiou_ap_r101_100ep_512"
