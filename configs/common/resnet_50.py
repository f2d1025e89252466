"""ResNet-50 as the papers' detectors have it, for torchvision's weights on RGB.

The stride is in the 3x3 convolution; stem and res2 are frozen, and of the other stages the norms'
statistics.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem, ResNet

from ranking_det.modeling import FrozenStatisticsBatchNorm2d

bottom_up = L(ResNet)(
    stem=L(BasicStem)(norm=FrozenStatisticsBatchNorm2d),
    stages=L(ResNet.make_default_stages)(
        depth=50, stride_in_1x1=False, norm=FrozenStatisticsBatchNorm2d
    ),
    out_features=["res2", "res3", "res4", "res5"],
    freeze_at=2,
)
