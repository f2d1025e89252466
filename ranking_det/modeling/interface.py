"""What the engine asks of a model, whatever its architecture.

Shapes: P_i positives of image i.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ranking_det.modeling.tta import DenseDetectorWithTTA


class Positives(NamedTuple):
    """What the assigner picks in an image, and how a preview draws it."""

    boxes: Tensor
    """(P_i, 4) anchors XYXY, in pixels of the input."""
    index: Tensor
    """(P_i,) int64, which of the image's instances each is to find."""
    are_points: bool = False
    """Whether only the centres of the boxes mean something."""
    description: str = "the anchors that are to find it"
    """What the positives are, in a caption about an object."""
    task: str = "find"
    """What the positives are trained to do with an object."""


class DetectorInterface:
    """Base of detectors that the engine trains, evaluates and previews.

    A detector derives from it beside ``nn.Module`` and overrides what it has an answer to. The
    defaults are those of a detector about which nothing is known.

    Attributes:
        num_classes: K; None if it is not known.
        learns_masks: whether training needs the objects' masks.
        input_format: "RGB" or "BGR", what the model takes.
        num_classes_key: the key of a yaml config that has K; None if there is none.
        masks_key: the key of a yaml config that says whether the model learns masks.
    """

    num_classes: int | None = None
    learns_masks: bool = False
    input_format: str = "BGR"
    num_classes_key: str | None = None
    masks_key: str | None = None

    def find_positives(self, batched_inputs: Sequence[dict[str, Any]]) -> list[Positives] | None:
        """Say what the assigner picks, as in a training step on these images; change nothing.

        Args:
            batched_inputs: as for training, with ``instances``.

        Returns:
            The positives of each image; None if the model does not tell.
        """
        return None

    def augment_inference(
        self, *, min_sizes: Sequence[int], max_size: int, flip: bool
    ) -> nn.Module:
        """Make a detector that looks at each image in several sizes, and mirrored.

        Args:
            min_sizes: lengths of the shorter side, in pixels.
            max_size: limit of the longer side, in pixels.
            flip: whether each size is also seen mirrored.

        Returns:
            A module that takes and gives what a Detectron2 model does.

        Raises:
            ValueError: the model cannot be augmented, or sizes that are none.
        """
        raise ValueError(f"model: {type(self).__name__} has no test-time augmentation")


class DetectorAdapter(DetectorInterface):
    """Answers for a model that does not derive from the interface: that little is known of it.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        # Most of Detectron2's models have it, but it may be None.
        self.input_format = getattr(model, "input_format", None) or self.input_format

    def augment_inference(
        self, *, min_sizes: Sequence[int], max_size: int, flip: bool
    ) -> nn.Module:
        """Augment a model that has ``propose`` and ``inference``."""
        return DenseDetectorWithTTA(self.model, min_sizes=min_sizes, max_size=max_size, flip=flip)


_ADAPTERS: dict[type, type[DetectorAdapter]] = {}


def register_adapter(kind: type[nn.Module], adapter: type[DetectorAdapter]) -> None:
    """Let ``adapter`` answer for models of the class ``kind``, which is another project's."""
    _ADAPTERS[kind] = adapter


def interface_of(model: nn.Module) -> DetectorInterface:
    """The answers of a built model, perhaps distributed."""
    model = model.module if isinstance(model, DistributedDataParallel) else model
    if isinstance(model, DetectorInterface):
        return model
    return interface_class(type(model))(model)


def interface_class(kind: type) -> type[DetectorInterface]:
    """The class that answers for models of a class, for what is known before one is built."""
    if issubclass(kind, DetectorInterface):
        return kind
    adapters = (adapter for known, adapter in _ADAPTERS.items() if issubclass(kind, known))
    return next(adapters, DetectorAdapter)
