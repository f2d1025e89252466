"""Any backbone of timm (PyTorch Image Models) as a Detectron2 backbone.

timm is an optional package: ``pip install -e ".[timm]"``. It is imported when a backbone is built.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from detectron2.modeling import Backbone
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ranking_det.checks import check_that
from ranking_det.user_errors import reason_of

ANY_SIZE = {"strict_img_size": False, "dynamic_img_size": True}
"""Arguments that make timm's transformers accept images of any size."""

WEIGHT_SOURCES = frozenset(["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"])
"""Arguments with which an untrusted config could make timm read any file or URL."""


class TimmBackbone(Backbone):
    """A classification network of timm without its head.

    The features are named by their stride, such as "stride8". timm's own names of the layers stay,
    so its checkpoints load. Layers after the last feature are frozen, because nothing trains them.

    Args:
        model_name: the name of a timm model with features of several strides, such as "resnet50",
            "convnext_tiny" or "swin_tiny_patch4_window7_224"; ``timm.list_models()`` lists them.
        strides: strides of the features in pixels, ascending.
        pretrained: load timm's weights, which are downloaded on first use.
        frozen_stride: freeze the layers up to the feature of this stride; 4 is ``freeze_at=2`` of
            Detectron2's ResNet. None freezes nothing.
        frozen_statistics: keep the running statistics of all batch norms, which a small batch would
            spoil, and train their weight and bias.
        **options: other arguments of the model, such as ``drop_path_rate=0.1``.

    Raises:
        ValueError: timm is not installed, has no such model, or cannot load its weights, or the
            model has no features of these strides or takes images of a single size only.
    """

    def __init__(
        self,
        model_name: str,
        strides: Sequence[int] = (8, 16, 32),
        *,
        pretrained: bool = False,
        frozen_stride: int | None = None,
        frozen_statistics: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        timm = import_timm()
        check_model_name(timm, model_name)
        sources = sorted(WEIGHT_SOURCES.intersection(options))
        expected = "no other source of weights than train.init_checkpoint"
        check_that(not sources, "options", expected, sources)
        with torch.device("meta"):
            parameters = inspect.signature(type(timm.create_model(model_name))).parameters
            any_size = {name: value for name, value in ANY_SIZE.items() if name in parameters}
            options = any_size | options
            network = timm.create_model(model_name, features_only=True, **options)
        # Some models have several features of a stride; the last one has seen the most layers.
        reductions = network.feature_info.reduction()
        last_index = {stride: index for index, stride in enumerate(reductions)}
        known_strides = f"{model_name}'s strides {sorted(last_index)}"
        is_valid = bool(strides) and list(strides) == sorted(set(strides) & set(last_index))
        check_that(is_valid, "strides", f"some of {known_strides}, ascending", list(strides))
        # timm counts all features, but a model may not return all of them.
        options["out_indices"] = [network.feature_info.out_indices[last_index[s]] for s in strides]
        self.body = _create(timm, model_name, pretrained, options)
        self._is_channels_last = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        self._out_features = [f"stride{stride}" for stride in strides]
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))
        channels = self.body.feature_info.channels()
        self._out_feature_channels = dict(zip(self._out_features, channels, strict=True))
        self.frozen_statistics = frozen_statistics
        frozen: set[str] = set()
        if frozen_stride is not None:
            is_valid = frozen_stride in last_index
            check_that(is_valid, "frozen_stride", f"one of {known_strides}", frozen_stride)
            frozen = _dependencies(model_name, network, last_index[frozen_stride])
        trained = _dependencies(model_name, network, last_index[strides[-1]]) - frozen
        for name, parameter in self.body.named_parameters():
            parameter.requires_grad_(name in trained)
        self.train()

    @property
    def size_divisibility(self) -> int:
        """Images are padded to a multiple of this number, the stride of the last feature."""
        return max(self._out_feature_strides.values())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the features.

        Args:
            images: (N, 3, H, W). Transformers need H and W that are multiples of their patch size;
                with an FPN, images are padded to a multiple of the last stride.

        Returns:
            "stride<s>" -> (N, C_s, H / s, W / s), sizes rounded up or down as the model does.
        """
        features = self.body(images)
        if self._is_channels_last:
            features = [feature.permute(0, 3, 1, 2).contiguous() for feature in features]
        return dict(zip(self._out_features, features, strict=True))

    def train(self, mode: bool = True) -> TimmBackbone:
        """Set the mode; batch norms that are frozen stay in evaluation mode.

        Args:
            mode: True for training.

        Returns:
            The backbone.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                is_frozen = not any(weight.requires_grad for weight in module.parameters())
                module.train(mode and not (is_frozen or self.frozen_statistics))
        return self


def _create(
    timm: ModuleType, model_name: str, pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    """Create the features of a model; raise ValueError if its weights cannot be downloaded."""
    try:
        model: nn.Module = timm.create_model(
            model_name, features_only=True, pretrained=pretrained, **options
        )
    except Exception as error:
        # A failed download raises errors of many classes, from several libraries.
        if not pretrained:
            raise
        reason = str(error).strip().partition("\n")[0]
        expected = f"weights of {model_name} that timm can download ({reason})"
        raise ValueError(f"pretrained: expected {expected}, got True") from error
    return model


def _dependencies(model_name: str, network: nn.Module, index: int) -> set[str]:
    """Return the names of the parameters that a feature of a network depends on.

    The network is on the meta device. Autograd finds the parameters, because timm's models have no
    common names or order of layers.
    """
    parameters = dict(network.named_parameters())
    try:
        feature = network(torch.zeros(1, 3, 64, 64, device="meta"))[index]
    except (AssertionError, RuntimeError) as error:
        expected = f"a model of timm that takes images of 64 px, too ({reason_of(error)})"
        raise ValueError(f"model_name: expected {expected}, got {model_name!r}") from error
    gradients = torch.autograd.grad(feature.sum(), list(parameters.values()), allow_unused=True)
    pairs = zip(parameters, gradients, strict=True)
    return {name for name, gradient in pairs if gradient is not None}


def import_timm() -> ModuleType:
    """Import timm.

    Returns:
        The module.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        install = 'pip install -e ".[timm]"'
        raise ValueError(f"timm: not installed, or broken ({error}); `{install}`") from error
    return timm


def check_model_name(timm: ModuleType, model_name: str) -> None:
    """Check that timm has a model.

    Args:
        timm: the module.
        model_name: the name of the model, with or without the tag of its weights.

    Raises:
        ValueError: timm has no such model.
    """
    name = model_name.partition(".")[0]
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "timm.list_models() lists them"
        expected = f"a model of timm {timm.__version__}"
        raise ValueError(f"model_name: expected {expected}, got {name!r} ({hint})")


def pixel_statistics(model_name: str) -> dict[str, Any]:
    """Return the pixel mean, standard deviation and order that the weights of a model expect.

    Args:
        model_name: the name of a timm model.

    Returns:
        ``pixel_mean`` and ``pixel_std``, three numbers each for pixels from 0 to 255, and
        ``input_format``, for Detectron2's models.

    Raises:
        ValueError: timm is not installed or has no such model.
    """
    timm = import_timm()
    check_model_name(timm, model_name)
    settings = timm.get_pretrained_cfg(model_name)
    return {
        "pixel_mean": [255.0 * value for value in settings.mean],
        "pixel_std": [255.0 * value for value in settings.std],
        "input_format": "RGB",
    }
