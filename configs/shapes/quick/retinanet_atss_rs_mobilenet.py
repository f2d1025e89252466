"""RetinaNet, ATSS, Rank & Sort Loss on a backbone of timm: MobileNet v3, short run on shapes.

It needs timm: ``pip install -e ".[timm]"``. To use another model, change ``model_name``, and the
channels of the top block to those of the model's last feature.
"""

from detectron2.config import LazyCall as L

from ranking_det.modeling import TimmBackbone

from ...common.models.backbones import TIMM_FEATURES
from ...common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ...common.shapes_quick import retinanet as model

model.backbone.bottom_up = L(TimmBackbone)(model_name="mobilenetv3_small_050")
model.backbone.in_features = TIMM_FEATURES
model.backbone.top_block.update({"in_channels": 288, "in_feature": TIMM_FEATURES[-1]})
train.output_dir = "output/shapes/quick/retinanet_atss_rs_mobilenet"
