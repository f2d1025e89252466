"""Post-processing of one image: clip boxes, suppress duplicates (NMS), keep the best.

It produces the detections of dense detectors and box heads, and the proposals of an RPN.

Shapes: n candidates of one image, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn


class RawDetections(NamedTuple):
    """The candidates of one image, in any order; usually before suppression."""

    boxes: Tensor
    """(n, 4) XYXY in pixels; they may extend beyond the image."""
    scores: Tensor
    """(n,) float32 in [0, 1]; logits for an RPN."""
    classes: Tensor
    """(n,) int64 in [0, K); levels for an RPN."""
    rows: Tensor | None = None
    """(n,) int64, the anchor of each candidate, counted over all levels of its image, if known."""

    def select(self, index: Tensor) -> RawDetections:
        """Select candidates.

        Args:
            index: a mask (n,) or indices (k,).

        Returns:
            The selected candidates.
        """
        return RawDetections(*(None if field is None else field[index] for field in self))

    def to_instances(self, image_size: tuple[int, int]) -> Instances:
        """Convert to Detectron2's detections.

        Args:
            image_size: (height, width) in pixels.

        Returns:
            Instances with ``pred_boxes``, ``scores`` and ``pred_classes``.
        """
        fields = {"scores": self.scores, "pred_classes": self.classes}
        return Instances(image_size, pred_boxes=Boxes(self.boxes), **fields)


def concatenate(parts: Iterable[RawDetections]) -> RawDetections:
    """Concatenate the candidates of several levels or views of one image.

    Args:
        parts: at least one; either all or none of them have ``rows``.

    Returns:
        All candidates.
    """
    fields = zip(*parts, strict=True)
    return RawDetections(*(None if field[0] is None else torch.cat(field) for field in fields))


def postprocess(
    raw: RawDetections,
    image_size: tuple[int, int],
    suppression: nn.Module,
    max_detections: int,
    *,
    min_side: float | None = 0.0,
    max_coordinate: float = math.inf,
) -> RawDetections:
    """Clip boxes to the image, suppress duplicates, and keep the highest-scored candidates.

    Candidates whose boxes or scores are not finite are dropped.

    Args:
        raw: the candidates, in any order.
        image_size: (height, width) in pixels of the image to which the coordinates refer.
        suppression: see :mod:`ranking_det.layers.suppression`.
        max_detections: maximum number of candidates to keep, >= 0.
        min_side: drop boxes with a side of at most this many pixels after clipping; None to keep
            them all.
        max_coordinate: drop boxes with a coordinate of at least this absolute value, in pixels.

    Returns:
        The remaining candidates, by descending score.
    """
    # NaN fails the comparison; Detectron2's structures raise an error for non-finite boxes.
    is_valid = (raw.boxes.abs().amax(dim=1) < max_coordinate) & raw.scores.isfinite()
    raw = raw.select(is_valid)
    visible = Boxes(raw.boxes)
    visible.clip(image_size)
    raw = raw._replace(boxes=visible.tensor)
    if min_side is not None:
        # Boxes outside the image are empty after clipping, and NMS would keep all of them.
        is_large_enough = visible.nonempty(threshold=min_side)
        raw = raw.select(is_large_enough)
    index, scores, boxes = suppression(raw.boxes, raw.scores, raw.classes, max_detections)
    return raw.select(index)._replace(boxes=boxes, scores=scores)
