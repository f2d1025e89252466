"""Test-time augmentation of detectors with raw detections; R-CNNs have Detectron2's.

Shapes: n candidates of one image.
"""

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
from ranking_det.modeling.raw_detections import RawDetections


class DenseDetectorWithTTA(nn.Module):
    """A detector that looks at each image in several sizes, and mirrored.

    The candidates of all of them are brought into the original image and suppressed once, so that
    they compete as those of one image do. Takes and gives what a Detectron2 model does.

    The sizes are made of the image that the data loader gives, as Detectron2's own augmentation
    does: a loader that shrinks images first leaves nothing for larger sizes to show.

    Args:
        model: a detector with ``propose(batched_inputs)``, a :class:`RawDetections` per image in
            the coordinates of its input, and ``inference``, a :class:`DenseInference`.
        min_sizes: lengths of the shorter side, in pixels.
        max_size: limit of the longer side, in pixels.
        flip: whether each size is also seen mirrored.
    """

    def __init__(self, model: Any, *, min_sizes: Sequence[int], max_size: int, flip: bool) -> None:
        super().__init__()
        if not hasattr(model, "propose") or not hasattr(model, "inference"):
            raise ValueError(
                "model: expected a dense detector, with propose and inference, got "
                f"{type(model).__name__}"
            )
        self.model = model
        self.mapper = make_tta_mapper(min_sizes, max_size, flip)
        # Detectron2's evaluation leaves the model in the mode in which it found this one.
        self.training = model.training

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Detect.

        Args:
            batched_inputs: as for a Detectron2 model; an input without ``image`` is read from its
                ``file_name``.

        Returns:
            Per image ``{"instances": Instances}``, in the original image's coordinates.
        """
        return [{"instances": self._detect(self._complete(inputs))} for inputs in batched_inputs]

    def _detect(self, inputs: dict[str, Any]) -> Any:
        views = []
        # One at a time: in a batch of several sizes the smaller would be padded.
        for augmented in self.mapper(inputs):
            (raw,) = self.model.propose([augmented])
            boxes = augmented["transforms"].inverse().apply_box(raw.boxes.cpu().numpy())
            views.append(raw._replace(boxes=torch.as_tensor(boxes).to(raw.boxes)))
        size = inputs["height"], inputs["width"]
        merged = RawDetections(*(torch.cat(parts) for parts in zip(*views, strict=True)))
        return detector_postprocess(self.model.inference.suppress(merged, size), *size)

    def _complete(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs with ``image`` on the CPU, ``height`` and ``width``."""
        image = inputs.get("image")
        if image is None:
            pixels = read_image(inputs["file_name"], format=self.model.input_format)
            image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        height, width = image.shape[-2:]
        return {"height": height, "width": width, **inputs, "image": image.cpu()}


def make_tta_mapper(min_sizes: Sequence[int], max_size: int, flip: bool) -> DatasetMapperTTA:
    """Check the sizes and make what shows an image in all of them; see Detectron2's mapper."""
    if not len(min_sizes):
        raise ValueError("min_sizes: expected at least one size, got none")
    for size in min_sizes:
        check_integer("min_sizes", size, 1)
    check_integer("max_size", max_size, 1)
    if not isinstance(flip, bool):
        raise ValueError(f"flip: expected True or False, got {flip!r}")
    return DatasetMapperTTA(min_sizes=list(min_sizes), max_size=max_size, flip=flip)
