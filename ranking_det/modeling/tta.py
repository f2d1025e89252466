"""Test-time augmentation (TTA) of dense detectors; R-CNNs use Detectron2's TTA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import read_image
from detectron2.modeling import DatasetMapperTTA
from detectron2.modeling.postprocessing import detector_postprocess
from torch import nn

from ranking_det.checks import check_integer
from ranking_det.modeling.postprocessing import concatenate


class DenseDetectorWithTTA(nn.Module):
    """Test-time augmentation of a dense detector: several image sizes and flipping.

    The candidates of all views are mapped back to the original image and suppressed together. The
    module has the inputs and outputs of a Detectron2 model at inference.

    As in Detectron2's augmentation, the views are resized from the image that the data loader
    gives. If the loader shrinks images, larger sizes show no more detail.

    Args:
        model: a detector with ``propose(batched_inputs)``, which returns a :class:`RawDetections`
            per image in the coordinates of its input, and ``inference``, a
            :class:`DenseInference`.
        min_sizes: lengths of the shorter side in pixels, each >= 1; at least one.
        max_size: limit of the longer side in pixels, >= 1.
        flip: whether each size is also run on the mirrored image.

    Raises:
        ValueError: the model is of another kind, or a size is not valid.
    """

    def __init__(self, model: Any, *, min_sizes: Sequence[int], max_size: int, flip: bool) -> None:
        super().__init__()
        if not hasattr(model, "propose") or not hasattr(model, "inference"):
            raise ValueError(
                "model: expected a dense detector with propose and inference, got "
                f"{type(model).__name__}"
            )
        self.model = model
        self.mapper = make_tta_mapper(min_sizes, max_size, flip)
        # Detectron2's evaluation restores this module's mode, and with it the model's.
        self.training = model.training

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Detect objects in all views of each image.

        Args:
            batched_inputs: as for a Detectron2 model. An input without ``image`` is read from its
                ``file_name``.

        Returns:
            ``{"instances": Instances}`` for each image, in the coordinates of the original image.
        """
        return [{"instances": self._detect(self._complete(inputs))} for inputs in batched_inputs]

    def _detect(self, inputs: dict[str, Any]) -> Any:
        views = []
        # One view at a time, because a batch of several sizes would pad the smaller ones.
        for augmented in self.mapper(inputs):
            (raw,) = self.model.propose([augmented])
            boxes = augmented["transforms"].inverse().apply_box(raw.boxes.cpu().numpy())
            views.append(raw._replace(boxes=torch.as_tensor(boxes).to(raw.boxes), rows=None))
        size = inputs["height"], inputs["width"]
        merged = concatenate(views)
        return detector_postprocess(self.model.inference.suppress(merged, size), *size)

    def _complete(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Add a missing ``image``, ``height`` or ``width``, and move the image to the CPU."""
        image = inputs.get("image")
        if image is None:
            pixels = read_image(inputs["file_name"], format=self.model.input_format)
            image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        height, width = image.shape[-2:]
        return {"height": height, "width": width, **inputs, "image": image.cpu()}


def make_tta_mapper(min_sizes: Sequence[int], max_size: int, flip: bool) -> DatasetMapperTTA:
    """Check the options and build Detectron2's mapper from an image to its augmented views.

    Args:
        min_sizes: lengths of the shorter side in pixels, each >= 1; at least one.
        max_size: limit of the longer side in pixels, >= 1.
        flip: whether each size is also shown as a mirror image.

    Returns:
        The mapper: the inputs of an image -> the inputs of its views.

    Raises:
        ValueError: an option is not valid.
    """
    if not len(min_sizes):
        raise ValueError("min_sizes: expected at least one size, got none")
    for size in min_sizes:
        check_integer("min_sizes", size, 1)
    check_integer("max_size", max_size, 1)
    if not isinstance(flip, bool):
        raise ValueError(f"flip: expected True or False, got {flip!r}")
    return DatasetMapperTTA(min_sizes=list(min_sizes), max_size=max_size, flip=flip)
