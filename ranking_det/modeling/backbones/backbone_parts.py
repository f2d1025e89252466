"""Parts of backbones in which the papers' detectors differ from Detectron2's."""

from __future__ import annotations

from detectron2.modeling.backbone.fpn import LastLevelP6P7
from torch import Tensor, nn
from torch.nn import functional


class FrozenStatisticsBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the loaded statistics, also in training; weight and bias are trained.

    Detectron2's FrozenBN freezes weight and bias as well; the papers' detectors train them from the
    third stage on. It is a BatchNorm2d by name and by class: a BatchNorm2d's checkpoint loads, and
    Detectron2's ``freeze_at`` turns it into FrozenBN in the stages that are not to be trained.

    Usable as ``norm`` of Detectron2's ResNet, whose ``get_norm`` calls it with the channels.

    Args:
        num_features: C of the inputs (N, C, H, W).
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.train()

    def train(self, mode: bool = True) -> FrozenStatisticsBatchNorm2d:
        """Stay in evaluation mode, whatever is asked of the model around it."""
        super().train(False)
        return self


class ExtraLevels(LastLevelP6P7):
    """FPN's levels P6 and P7, each by a 3x3 convolution of stride 2 on the one before.

    For the ``top_block`` of Detectron2's FPN. Detectron2's LastLevelP6P7 is the one with ``relu``;
    names, shapes and initialisation of the parameters are the same.

    Args:
        in_channels: channels of ``in_feature``.
        out_channels: channels of P6 and P7.
        in_feature: what P6 is made from: a feature of the bottom-up network such as "res5", or the
            FPN's last level, "p5".
        relu: whether P7 is made from the ReLU of P6. Unlike RetinaNet (Lin et al., ICCV 2017), the
            ranking papers' detectors have none.
    """

    def __init__(
        self, in_channels: int, out_channels: int, in_feature: str = "res5", relu: bool = False
    ) -> None:
        super().__init__(in_channels, out_channels, in_feature)
        self.relu = relu

    def forward(self, feature: Tensor) -> list[Tensor]:
        """Make the levels.

        Args:
            feature: (N, in_channels, H, W), what ``in_feature`` names.

        Returns:
            P6 (N, out_channels, ceil(H / 2), ceil(W / 2)) and P7 of half that size.
        """
        p6 = self.p6(feature)
        return [p6, self.p7(functional.relu(p6) if self.relu else p6)]
