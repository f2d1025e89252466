"""R-CNNs for small images on a CPU: ResNet-18 trained from scratch, FPN of 64 channels, FC of 256.

``faster``, ``mask`` and ``cascade`` rank; ``faster_plus`` has CARAFE in its FPN. ``faster_ce`` and
``mask_ce`` are the baselines on random samples; all have at most 128 proposals an image.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem, ResNet

from .rcnn import (
    box_heads,
    faster_rcnn,
    fpn,
    rpn,
    with_carafe,
    with_cross_entropy,
    with_masks,
    with_stages,
)

CHANNELS = 64

bottom_up = L(ResNet)(
    stem=L(BasicStem)(in_channels=3, out_channels=64, norm="BN"),
    stages=L(ResNet.make_default_stages)(depth=18, norm="BN"),
    out_features=["res2", "res3", "res4", "res5"],
    freeze_at=0,
)
faster = faster_rcnn(
    fpn(bottom_up, CHANNELS),
    # Half as many strides as in the papers, for small objects.
    rpn(CHANNELS, anchor_scale=4, before_nms=[500, 500], after_nms=[128, 128]),
    # A short run's ranking scores have no scale yet.
    box_heads(CHANNELS, features=256, sampling_ratio=2, score_thresh=0.0),
)
faster_plus = with_carafe(faster)
mask = with_masks(faster, num_conv=2)
cascade = with_stages(faster)
cascade_mask = with_masks(cascade, num_conv=2)
faster_ce = with_cross_entropy(faster, rois=128)
mask_ce = with_cross_entropy(mask, rois=128)
