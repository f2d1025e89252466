"""Light SOLOv2, center region, focal loss: ResNet-34, 36 epochs on COCO, short edge 448.

Published mask AP 32.0: the model of SOLOv2's authors (Wang et al., NeurIPS 2020). The learning rate
is the one of the baseline in the code of Rank & Sort Loss (``solov2_light_rs_r34_36ep.py``).
"""

from ..common.models.solov2 import with_focal
from .solov2_light_rs_r34_36ep import dataloader, lr_multiplier, model, optimizer, train

model = with_focal(model)
optimizer.lr = 0.02
train.output_dir = "output/coco/solov2_light_focal_r34_36ep"
