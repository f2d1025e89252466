"""RetinaNet, max-IoU, AP Loss: ResNet-50, 100 epochs on COCO at 512 px.

Published AP 35.4: AP Loss (Chen et al., CVPR 2019) as reported by the authors of aLRP Loss (Oksuz
et al., NeurIPS 2020), quoted as Retina(512) in table 9 of APE Loss (Xu et al., CVPR 2022). The
batch size and the learning rate are those of the authors of aLRP Loss.
"""

from ..common.criteria import ap
from .retinanet_maxiou_alrp_r50_100ep_512 import dataloader, lr_multiplier, model, optimizer, train

model.criterion = ap()
optimizer.lr = 0.002
train.output_dir = "output/coco/retinanet_maxiou_ap_r50_100ep_512"
