"""Detector interface: what the engine needs to know about a detector of any architecture.

Shapes: K classes, P_i positives of image i.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ranking_det.modeling.tta import DenseDetectorWithTTA


class Positives(NamedTuple):
    """The positives of one image, and how a preview describes them."""

    boxes: Tensor
    """(P_i, 4) anchors XYXY, in pixels of the input."""
    index: Tensor
    """(P_i,) int64, the index of the image's object that each is matched to."""
    are_points: bool = False
    """True if only the centers of the boxes are meaningful."""
    description: str = "the anchors matched to it"
    """A phrase for the positives of an object, for the object's caption."""
    task: str = "find"
    """A verb for the task of the positives, such as "find" or "propose" an object."""


class DetectorInterface:
    """Base class of detectors that the engine trains, evaluates and previews.

    A detector derives from it in addition to ``nn.Module`` and overrides the methods that it
    supports. The defaults assume nothing about a detector.

    Attributes:
        num_classes: K; None if it is not known.
        learns_masks: whether training needs the objects' masks.
        positives_need_images: whether the result of :meth:`find_positives` depends on the pixels of
            the images and on the weights.
        input_format: order of the input's channels, "RGB" or "BGR".
        num_classes_key: the key of a yaml config that holds K; None if there is none.
        masks_key: the key of a yaml config that says whether the model learns masks; None if
            ``learns_masks`` holds for all configs.
    """

    num_classes: int | None = None
    learns_masks: bool = False
    positives_need_images: bool = True
    input_format: str = "BGR"
    num_classes_key: str | None = None
    masks_key: str | None = None

    def find_positives(self, batched_inputs: Sequence[dict[str, Any]]) -> list[Positives] | None:
        """Find the positives of each image, as in a training step, without side effects.

        Args:
            batched_inputs: as for training, with ``instances``.

        Returns:
            The positives of each image; None if the model does not provide them.
        """
        return None

    def check_parts(self) -> None:
        """Check that the parts of the model are compatible, where no constructor checks it.

        Raises:
            ValueError: a part would fail in the first training step.
        """
        return

    def augment_inference(
        self, *, min_sizes: Sequence[int], max_size: int, flip: bool
    ) -> nn.Module:
        """Wrap the model in test-time augmentation: several image sizes and flipping.

        Args:
            min_sizes: lengths of the shorter side in pixels, each >= 1; at least one.
            max_size: limit of the longer side in pixels, >= 1.
            flip: whether each size is also detected in a mirror image.

        Returns:
            A module with the inputs and outputs of a Detectron2 model at inference.

        Raises:
            ValueError: the model has no test-time augmentation, or a size is not valid.
        """
        name = type(self).__name__
        raise ValueError(f"model: expected a detector with test-time augmentation, got {name}")


class DetectorAdapter(DetectorInterface):
    """Interface of a model that does not derive from :class:`DetectorInterface`.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        # Most Detectron2 models have the attribute, but it may be None.
        self.input_format = getattr(model, "input_format", None) or self.input_format

    def augment_inference(
        self, *, min_sizes: Sequence[int], max_size: int, flip: bool
    ) -> nn.Module:
        """Wrap a model that has ``propose`` and ``inference``; see the base class."""
        return DenseDetectorWithTTA(self.model, min_sizes=min_sizes, max_size=max_size, flip=flip)


_ADAPTERS: dict[type, type[DetectorAdapter]] = {}


def register_adapter(kind: type[nn.Module], adapter: type[DetectorAdapter]) -> None:
    """Register the adapter of another project's models.

    Args:
        kind: the class of the models; the adapter is used for its subclasses, too.
        adapter: the class of the adapter, which is constructed from a model.
    """
    _ADAPTERS[kind] = adapter


def interface_of(model: nn.Module) -> DetectorInterface:
    """Return the interface of a model: the model itself, or an adapter of it.

    Args:
        model: any detector, possibly wrapped in ``DistributedDataParallel``.

    Returns:
        The model if it derives from :class:`DetectorInterface`, else its adapter.
    """
    model = model.module if isinstance(model, DistributedDataParallel) else model
    if isinstance(model, DetectorInterface):
        return model
    return interface_class(type(model))(model)


def interface_class(kind: type) -> type[DetectorInterface]:
    """Return the interface class of a model class, for questions before a model is built.

    Args:
        kind: a class of models.

    Returns:
        ``kind`` if it derives from :class:`DetectorInterface`, else the registered adapter, or
        :class:`DetectorAdapter` if there is none.
    """
    if issubclass(kind, DetectorInterface):
        return kind
    adapters = (adapter for base, adapter in _ADAPTERS.items() if issubclass(kind, base))
    return next(adapters, DetectorAdapter)
