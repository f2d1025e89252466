"""YOLACT with ResNet-18 for small images on a CPU: from scratch, FPN with 64 channels.

``model`` has Rank & Sort Loss; ``baseline`` has the losses of the original YOLACT.
"""

from ..criteria import rank_sort_masks, yolact_cross_entropy
from .backbones import IMAGENET_RGB, resnet_18
from .yolact import with_cross_entropy, yolact

model = yolact(
    resnet_18(first=3),
    channels=64,
    res5_channels=512,
    criterion=rank_sort_masks(),
    strides=[8, 16, 32, 64, 128],
    # 2 strides instead of the paper's 3, for small objects.
    sizes=[16, 32, 64, 128, 256],
    # The scores of ranking losses are free up to a shift, so no threshold suits a short run.
    score_thresh=0.0,
)
model.update(IMAGENET_RGB)
baseline = with_cross_entropy(model, yolact_cross_entropy())
