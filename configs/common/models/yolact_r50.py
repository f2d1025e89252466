"""YOLACT with ResNet-50 at 550 x 550 pixels, as in Rank & Sort Loss (Oksuz et al., ICCV 2021).

``model`` is RS-YOLACT; ``baseline`` has the losses of the original YOLACT. Nothing is frozen, and
the batch norms use the statistics of the batch. The maps have 69, 35, 18, 9 and 5 cells a side,
over which the anchors are spread evenly. For other image sizes, set ``anchor_generator.strides`` to
the strides of the features, 8 to 128.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem, ResNet

from ..criteria import rank_sort_masks, yolact_cross_entropy
from .backbones import stage_names
from .yolact import with_cross_entropy, yolact

model = yolact(
    L(ResNet)(
        stem=L(BasicStem)(norm="BN"),
        stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=False, norm="BN"),
        out_features=stage_names(3),
        freeze_at=0,
    ),
    channels=256,
    res5_channels=2048,
    criterion=rank_sort_masks(),
    strides=[550 / cells for cells in (69, 35, 18, 9, 5)],
    sizes=[24, 48, 96, 192, 384],
    score_thresh=0.05,
)
model.update(
    pixel_mean=[123.68, 116.78, 103.94], pixel_std=[58.40, 57.12, 57.38], input_format="RGB"
)
baseline = with_cross_entropy(model, yolact_cross_entropy())
