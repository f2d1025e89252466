"""AP Loss (Chen et al., CVPR 2019): RetinaNet, ResNet-50, 512 px, 100 epochs, published AP 35.4.

The AP is that of aLRP Loss's authors, whose batch size and learning rate these are.
"""

from ..common.criteria import ap
from .retinanet_maxiou_alrp_r50_100ep_512 import dataloader, lr_multiplier, model, optimizer, train

model.criterion = ap()
optimizer.lr = 0.002
train.output_dir = "output/coco/retinanet_maxiou_ap_r50_100ep_512"
