"""A backbone in one file: depthwise separable convolutions, for Detectron2's FPN on top.

The blocks are MobileNet's (Howard et al., 2017) with a residual connection: a 3x3 convolution per
channel, then a 1x1 convolution over the channels. Training starts from random weights.

    python train_net.py --config-file examples/separable_net_shapes.py

trains RetinaNet on it. Copy the file and change the blocks.
"""

from __future__ import annotations

from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional


class SeparableBlock(nn.Module):
    """A residual block of two convolutions, 3x3 by channel and 1x1.

    Args:
        width: channels.
        norm: see :class:`SeparableNet`.
    """

    def __init__(self, width: int, norm: str) -> None:
        super().__init__()
        self.depthwise = _conv(width, width, norm, groups=width)
        self.pointwise = _conv(width, width, norm, kernel_size=1, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to features (N, width, H, W), without changing the shape."""
        return functional.relu(x + self.pointwise(self.depthwise(x)))


class SeparableNet(Backbone):
    """Backbone: a stem of stride 4, and stages "s3", "s4" and "s5" of strides 8, 16 and 32.

    Args:
        width: channels of the stem; each stage has twice as many as the one before.
        depth: blocks per stage.
        norm: Detectron2's name of the normalization, such as "BN", "SyncBN" or "GN".
    """

    def __init__(self, width: int = 32, depth: int = 2, norm: str = "BN") -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _conv(3, width, norm, stride=2), _conv(width, width, norm, stride=2)
        )
        self._shapes = {}
        for level in (3, 4, 5):  # a feature of stride 2^level is level "p<level>" of an FPN
            blocks = [SeparableBlock(2 * width, norm) for _ in range(depth)]
            stage = nn.Sequential(_conv(width, 2 * width, norm, stride=2), *blocks)
            self.add_module(f"s{level}", stage)
            width *= 2
            self._shapes[f"s{level}"] = ShapeSpec(channels=width, stride=2**level)

    @property
    def size_divisibility(self) -> int:
        """Images are padded to a multiple of this number, so all strides divide their sides."""
        return 32

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return the channels and stride of each feature, the finest first."""
        return self._shapes

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images (N, 3, H, W) to "s3" (N, 2 width, H / 8, W / 8), "s4" and "s5"."""
        x, features = self.stem(images), {}
        for name in self._shapes:
            x = features[name] = self.get_submodule(name)(x)
        return features


@BACKBONE_REGISTRY.register()
def build_separable_net(cfg, input_shape: ShapeSpec) -> SeparableNet:  # noqa: ANN001
    """Build the backbone from a yaml config; LazyConfigs need no function and no registry."""
    return SeparableNet(norm=cfg.MODEL.RESNETS.NORM)


def _conv(
    in_channels: int, out_channels: int, norm: str, kernel_size: int = 3, **options: object
) -> Conv2d:
    """Build a convolution with norm and ReLU, initialized for ReLUs."""
    options = {"activation": functional.relu, "padding": kernel_size // 2, "bias": False} | options
    conv = Conv2d(
        in_channels, out_channels, kernel_size, norm=get_norm(norm, out_channels), **options
    )
    weight_init.c2_msra_fill(conv)
    return conv
