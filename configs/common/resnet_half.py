"""ResNet-18 of half the channels: a quarter of the multiplications, for minutes on a CPU."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock

WIDTH = 32

bottom_up = L(ResNet)(
    stem=L(BasicStem)(in_channels=3, out_channels=WIDTH, norm="BN"),
    stages=[
        L(ResNet.make_stage)(
            block_class=BasicBlock,
            num_blocks=2,
            stride_per_block=[1 if i == 0 else 2, 1],
            in_channels=WIDTH * max(1, 2 ** (i - 1)),
            out_channels=WIDTH * 2**i,
            norm="BN",
        )
        for i in range(4)
    ],
    out_features=["res3", "res4", "res5"],
    freeze_at=0,
)
