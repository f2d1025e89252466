"""RetinaNet and Rank & Sort Loss on the backbone of separable_net.py, on the shapes at 128 px."""

from detectron2.config import LazyCall as L
from detectron2.modeling import FPN
from detectron2.modeling.backbone.fpn import LastLevelP6P7

from examples.separable_net import SeparableNet

from ..configs.common.shapes_quick import dataloader, lr_multiplier, optimizer, train
from ..configs.common.shapes_quick import retinanet as model

model.backbone = L(FPN)(
    bottom_up=L(SeparableNet)(width=32, depth=2),
    in_features=["s3", "s4", "s5"],  # become p3, p4 and p5
    out_channels=64,
    top_block=L(LastLevelP6P7)(in_channels=256, out_channels=64, in_feature="s5"),  # p6 and p7
)
train.output_dir = "output/examples/separable_net"
