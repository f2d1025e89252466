"""R-CNNs with ResNet-18 for small images on a CPU: from scratch, FPN with 64 channels, FC with 256.

``faster``, ``mask`` and ``cascade`` have Rank & Sort Loss; ``faster_plus`` also has a CARAFE FPN.
``faster_ce`` and ``mask_ce`` are the baselines: cross entropy on random samples. All have at most
128 proposals per image.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.meta_arch import GeneralizedRCNN

from ..criteria import cross_entropy, rank_sort
from .backbones import IMAGENET_RGB, fpn, resnet_18
from .rcnn import (
    RPN_WEIGHTS,
    box_heads,
    rpn,
    with_carafe,
    with_cross_entropy,
    with_masks,
    with_stages,
)

faster = L(GeneralizedRCNN)(
    backbone=fpn(resnet_18(first=2), channels=64, top_block=L(LastLevelMaxPool)()),
    # Anchors of 4 strides instead of the papers' 8, for small objects.
    proposal_generator=rpn(
        64, rank_sort(), anchor_scale=4, before_nms=[500, 500], after_nms=[128, 128]
    ),
    # The scores of ranking losses are free up to a shift, so no threshold suits a short run.
    roi_heads=box_heads(64, rank_sort(), features=256, sampling_ratio=2, score_thresh=0.0),
    **IMAGENET_RGB,
)
faster_plus = with_carafe(faster)
mask = with_masks(faster, num_conv=2)
cascade = with_stages(faster)
cascade_mask = with_masks(cascade, num_conv=2)
faster_ce = with_cross_entropy(faster, cross_entropy(RPN_WEIGHTS), cross_entropy(), rois=128)
mask_ce = with_cross_entropy(mask, cross_entropy(RPN_WEIGHTS), cross_entropy(), rois=128)
