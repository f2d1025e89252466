"""From the candidates of an image to those that are kept: detections, or an RPN's proposals.

Shapes: n candidates of one image.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from detectron2.structures import Boxes, Instances
from torch import Tensor, nn


class RawDetections(NamedTuple):
    """The candidates of one image before suppression, in no order."""

    boxes: Tensor
    """(n, 4) XYXY pixels; they may reach beyond the image."""
    scores: Tensor
    """(n,) in [0, 1], float32; of an RPN logits."""
    classes: Tensor
    """(n,) int64, 0..K-1; of an RPN levels."""

    def to_instances(self, image_size: tuple[int, int]) -> Instances:
        """Detectron2's detections of an image of (height, width) pixels."""
        fields = {"scores": self.scores, "pred_classes": self.classes}
        return Instances(image_size, pred_boxes=Boxes(self.boxes), **fields)


def keep_best(
    raw: RawDetections,
    image_size: tuple[int, int],
    suppression: nn.Module,
    max_detections: int,
    *,
    min_side: float | None = 0.0,
    max_coordinate: float = math.inf,
) -> RawDetections:
    """Clip the boxes to the image, suppress duplicates, and keep the best.

    Args:
        raw: the candidates, in any order.
        image_size: (height, width) of the image whose pixels the boxes are in.
        suppression: see :mod:`ranking_det.layers.suppression`.
        max_detections: how many are kept.
        min_side: boxes that have a side of at most so many pixels within the image are dropped;
            None to keep them all.
        max_coordinate: boxes that reach as far are dropped, as are those that are not finite.

    Returns:
        Those that are kept, by descending score.
    """
    # NaN fails the comparison; Detectron2's structures stop at boxes that are not finite.
    usable = (raw.boxes.abs().amax(dim=1) < max_coordinate) & raw.scores.isfinite()
    raw = RawDetections(*(field[usable] for field in raw))
    visible = Boxes(raw.boxes)
    visible.clip(image_size)
    raw = raw._replace(boxes=visible.tensor)
    if min_side is not None:
        # What lies outside overlaps nothing, so that NMS would let all of it through.
        inside = visible.nonempty(threshold=min_side)
        raw = RawDetections(*(field[inside] for field in raw))
    index, scores, boxes = suppression(*raw, max_detections)
    return RawDetections(boxes, scores, raw.classes[index])
