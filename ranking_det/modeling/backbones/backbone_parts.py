"""Backbone parts that differ from Detectron2's: batch normalization, FPN levels P6 and P7."""

from __future__ import annotations

from detectron2.modeling.backbone.fpn import LastLevelP6P7
from torch import Tensor, nn
from torch.nn import functional


class FrozenStatisticsBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization with frozen running statistics but trained weight and bias.

    Detectron2's FrozenBN freezes weight and bias as well. The papers' detectors train them from the
    third stage on. As a subclass of BatchNorm2d it loads checkpoints of BatchNorm2d, and
    Detectron2's ``freeze_at`` converts it to FrozenBN in frozen stages.

    It can be the ``norm`` of Detectron2's ResNet: ``get_norm`` calls it with the channels.

    Args:
        num_features: C of the inputs (N, C, H, W), >= 1.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.train()

    def train(self, mode: bool = True) -> FrozenStatisticsBatchNorm2d:
        """Stay in evaluation mode, even if the model is set to training mode.

        Args:
            mode: ignored.

        Returns:
            The module.
        """
        super().train(False)
        return self


class ExtraLevels(LastLevelP6P7):
    """FPN levels P6 and P7, each a 3x3 convolution of stride 2 on the previous level.

    It is a ``top_block`` for Detectron2's FPN. With ``relu`` it is the same as Detectron2's
    LastLevelP6P7; names, shapes and initialization of the parameters are always the same.

    Args:
        in_channels: channels of ``in_feature``, >= 1.
        out_channels: channels of P6 and P7, >= 1.
        in_feature: the input of P6: a feature of the bottom-up network, such as "res5", or the last
            level of the FPN, "p5".
        relu: whether P7 is computed from the ReLU of P6, as in RetinaNet (Lin et al., ICCV 2017).
            Unlike the paper, the ranking papers' detectors have no ReLU there.
    """

    def __init__(
        self, in_channels: int, out_channels: int, in_feature: str = "res5", relu: bool = False
    ) -> None:
        super().__init__(in_channels, out_channels, in_feature)
        self.relu = relu

    def forward(self, feature: Tensor) -> list[Tensor]:
        """Compute P6 and P7.

        Args:
            feature: (N, in_channels, H, W), the feature ``in_feature``.

        Returns:
            P6 (N, out_channels, ceil(H / 2), ceil(W / 2)), and P7 of half that size, rounded up.
        """
        p6 = self.p6(feature)
        return [p6, self.p7(functional.relu(p6) if self.relu else p6)]
