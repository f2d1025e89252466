"""SOLOv2 with the settings of its paper (Wang et al., NeurIPS 2020) and of Rank & Sort Loss.

``model`` and ``light`` have Rank & Sort Loss (Oksuz et al., ICCV 2021): an object keeps its cells
even if a later one claims them, too, and the score threshold is .2. ``with_focal`` makes the
paper's baseline. The light model is for images with a short edge of 448 pixels. ``small`` is for
images of 128 pixels on a CPU: ResNet-18 from scratch, and at most 64 channels.
"""

from copy import deepcopy

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from omegaconf import DictConfig

from ranking_det.assigners import CenterRegion
from ranking_det.modeling import RankingSOLOv2, SOLOv2Head, SOLOv2Inference

from ..criteria import focal_masks, rank_sort_masks_only
from .backbones import IMAGENET_RGB, fpn, resnet, resnet_18

model = L(RankingSOLOv2)(
    backbone=fpn(resnet(first=2, depth=101), channels=256, top_block=L(LastLevelMaxPool)()),
    head=L(SOLOv2Head)(
        in_channels="${..backbone.out_channels}",
        num_classes="${..num_classes}",
        grids=[40, 36, 24, 16, 12],
        num_convs=4,
        channels=512,
        kernel_channels=256,
    ),
    in_features=["p2", "p3", "p4", "p5", "p6"],
    assigner=L(CenterRegion)(
        scale_ranges=[[1, 96], [48, 192], [96, 384], [192, 768], [384, 2048]], region=0.2
    ),
    criterion=rank_sort_masks_only(),
    num_classes=80,
    inference=L(SOLOv2Inference)(score_thresh=0.2),
    **IMAGENET_RGB,
)

light = deepcopy(model)
light.backbone.bottom_up = resnet(first=2, depth=34)
light.head.update({"num_convs": 2, "channels": 256, "kernel_channels": 128})
light.assigner.scale_ranges = [[1, 56], [28, 112], [56, 224], [112, 448], [224, 896]]

small = deepcopy(model)
small.backbone = fpn(resnet_18(first=2), channels=64, top_block=L(LastLevelMaxPool)())
small.head.update({"num_convs": 2, "channels": 64, "kernel_channels": 64, "mask_channels": 64})
small.head.grids = [20, 18, 12, 8, 6]
small.assigner.scale_ranges = [[1, 16], [8, 32], [16, 64], [32, 128], [64, 256]]
# The scores of ranking losses are free up to a shift, so no threshold suits a short run. A third of
# the shapes are smaller than the published smallest area.
small.inference.update({"score_thresh": 0.0, "min_score": 0.0, "min_area": 0.0})


def with_focal(model: DictConfig) -> DictConfig:
    """Make the paper's baseline: focal loss, shared cells, a score threshold of .1."""
    baseline = deepcopy(model)
    baseline.assigner.shared = True
    baseline.criterion = focal_masks()
    if baseline.inference.score_thresh:
        baseline.inference.score_thresh = 0.1
    return baseline
