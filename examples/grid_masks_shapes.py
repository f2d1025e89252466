"""The detector of grid_masks.py on the shapes at 128 px: mask AP 3.6 in two minutes on a CPU."""

from detectron2.config import LazyCall as L
from detectron2.modeling import FPN

from examples.grid_masks import CenterRegion, GridMasks
from ranking_det.criteria import Criterion, MaskDice, RankSort

from ..configs.common.models.backbones import IMAGENET_RGB, resnet_18_half
from ..configs.common.shapes import NUM_CLASSES
from ..configs.common.shapes_quick import lr_multiplier, optimizer, train
from ..configs.common.shapes_quick_rcnn import dataloader_masks as dataloader

bottom_up = resnet_18_half(first=2)

model = L(GridMasks)(
    backbone=L(FPN)(
        bottom_up=bottom_up, in_features=bottom_up.out_features, out_channels=64, norm="GN"
    ),
    assigner=L(CenterRegion)(size=0.3),
    # Rank & Sort Loss sorts the scores by the Dice coefficients of the masks.
    criterion=L(Criterion)(classification=L(RankSort)(), localization=L(MaskDice)()),
    num_classes=NUM_CLASSES,
    **IMAGENET_RGB,
)
train.output_dir = "output/examples/grid_masks"
