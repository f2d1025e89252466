"""ResNet and FPN backbones, and the ImageNet pixel mean and std for their weights.

Unlike the papers' code, which initializes the FPN with Xavier uniform (bound
sqrt(6 / (fan_in + fan_out))), we keep Detectron2's initialization (bound sqrt(3 / fan_in)). The
papers' bound is 1.15, 1.26 and 1.33 times ours in the lateral convolutions on res3, res4 and res5
of ResNet-50, and 1.33 times ours in P6 from C5. The other layers of the FPN have as many outputs as
inputs, so both bounds are equal.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from omegaconf import DictConfig

from ranking_det.layers import deform_convolutions
from ranking_det.modeling import DeepStem, FrozenStatisticsBatchNorm2d, Res2NetBlock
from ranking_det.modeling.backbones.backbone_parts import ExtraLevels

# Mean and standard deviation of ImageNet's pixels, which torchvision's pretrained weights expect.
IMAGENET_RGB = {
    "pixel_mean": [123.675, 116.28, 103.53],
    "pixel_std": [58.395, 57.12, 57.375],
    "input_format": "RGB",
}

# The features of TimmBackbone and efficientnet_lite0 for p3 to p5.
TIMM_FEATURES = ["stride8", "stride16", "stride32"]


def stage_names(first: int) -> list[str]:
    """Return the names of a ResNet's output features, from ``res{first}`` to res5."""
    return [f"res{i}" for i in range(first, 6)]


def resnet(first: int, depth: int = 50) -> DictConfig:
    """ResNet for torchvision's ImageNet weights, frozen as in the papers.

    The stride is in the 3x3 convolution. The stem and res2 are frozen. In the other stages only the
    running statistics of the batch norms are frozen; with the ``norm`` "FrozenBN", the weights and
    biases of the batch norms are frozen, too.

    Args:
        first: the first output feature, ``res{first}``.
        depth: 18, 34, 50, 101 or 152. Blocks of ResNet-18 and 34 have two 3x3 convolutions; the
            stride is in the first one.
    """
    options = {} if depth < 50 else {"stride_in_1x1": False}
    return L(ResNet)(
        stem=L(BasicStem)(norm=FrozenStatisticsBatchNorm2d),
        stages=L(ResNet.make_default_stages)(
            depth=depth, norm=FrozenStatisticsBatchNorm2d, **options
        ),
        out_features=stage_names(first),
        freeze_at=2,
    )


def resnext_101(first: int, groups: int = 64, width: int = 4) -> DictConfig:
    """ResNeXt-101 (S. Xie et al., CVPR 2017) for torchvision's weights, frozen as :func:`resnet`.

    Args:
        first: the first output feature, ``res{first}``.
        groups: groups of the 3x3 convolutions: 64 for 64 x 4d, as in the papers' rows, 32 for
            32 x 8d.
        width: channels of a group in res2.
    """
    node = resnet(first, depth=101)
    node.stages = [
        L(ResNet.make_stage)(
            block_class=BottleneckBlock,
            num_blocks=blocks,
            stride_per_block=[1 if i == 0 else 2] + [1] * (blocks - 1),
            in_channels=64 if i == 0 else 128 * 2**i,
            out_channels=256 * 2**i,
            bottleneck_channels=groups * width * 2**i,
            num_groups=groups,
            stride_in_1x1=False,
            norm=FrozenStatisticsBatchNorm2d,
        )
        for i, blocks in enumerate((3, 4, 23, 3))
    ]
    return node


def res2net_101(first: int, *, pools_at_stride_1: bool = False) -> DictConfig:
    """Res2Net-101 v1d 26w x 4s (S. Gao et al., TPAMI 2021), frozen as :func:`resnet`.

    Args:
        first: the first output feature, ``res{first}``.
        pools_at_stride_1: False for mmdetection's weights, as in APE Loss; True for timm's.
    """
    return L(ResNet)(
        stem=L(DeepStem)(norm=FrozenStatisticsBatchNorm2d),
        stages=L(ResNet.make_default_stages)(
            depth=101,
            block_class=Res2NetBlock,
            norm=FrozenStatisticsBatchNorm2d,
            pools_at_stride_1=pools_at_stride_1,
        ),
        out_features=stage_names(first),
        freeze_at=2,
    )


def deformable(bottom_up: DictConfig, deformable_groups: int) -> DictConfig:
    """Make the 3x3 convolutions of res3 to res5 deformable (DCN v2), as in the papers.

    Args:
        bottom_up: a ResNet, ResNeXt or Res2Net.
        deformable_groups: 1 in APE Loss, 4 in Rank & Sort Loss.
    """
    return L(deform_convolutions)(
        network=bottom_up, stages=stage_names(3), deformable_groups=deformable_groups
    )


def resnet_18(first: int) -> DictConfig:
    """ResNet-18 for training from scratch."""
    return L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="BN"),
        stages=L(ResNet.make_default_stages)(depth=18, norm="BN"),
        out_features=stage_names(first),
        freeze_at=0,
    )


def resnet_18_half(first: int) -> DictConfig:
    """ResNet-18 with half the channels: a quarter of the multiplications, for runs on a CPU."""
    return L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=32, norm="BN"),
        stages=[
            L(ResNet.make_stage)(
                block_class=BasicBlock,
                num_blocks=2,
                stride_per_block=[1 if i == 0 else 2, 1],
                in_channels=32 * max(1, 2 ** (i - 1)),
                out_channels=32 * 2**i,
                norm="BN",
            )
            for i in range(4)
        ],
        out_features=stage_names(first),
        freeze_at=0,
    )


def fpn(bottom_up: DictConfig, channels: int, top_block: DictConfig) -> DictConfig:
    """Feature pyramid network (FPN) on all output features of a ResNet."""
    return L(FPN)(
        bottom_up=bottom_up,
        in_features=bottom_up.out_features,
        out_channels=channels,
        top_block=top_block,
    )


def fpn_r18() -> DictConfig:
    """FPN on ResNet-18: p3 to p7 with 64 channels, p6 from res5."""
    return fpn(
        resnet_18(first=3),
        channels=64,
        top_block=L(LastLevelP6P7)(in_channels=512, out_channels="${..out_channels}"),
    )


def fpn_r50(p6_from: str, *, relu: bool = False) -> DictConfig:
    """FPN on ResNet-50: p3 to p7 with 256 channels.

    Args:
        p6_from: the input of p6, "res5" or "p5".
        relu: apply a ReLU before p7.
    """
    return fpn(
        resnet(first=3),
        channels=256,
        top_block=L(ExtraLevels)(
            in_channels={"res5": 2048, "p5": 256}[p6_from],
            out_channels="${..out_channels}",
            in_feature=p6_from,
            relu=relu,
        ),
    )
