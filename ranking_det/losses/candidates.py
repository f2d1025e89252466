"""What a criterion takes and returns: plain tensors, whatever detector they come from."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """The predictions of one step, for all images and levels of this process together.

    R rows (anchors, points or RoIs) of K class logits, image-major, then level, then cell. The
    fields of boxes hold only the P positives, in row order; row r is positive where the label given
    to the criterion is a class.

    Attributes:
        logits: (R, K) raw class scores.
        image: (R,) int64, the image of a row, 0..num_images-1.
        level: (R,) int64, the feature level of a row, 0 for the finest.
        num_images: the number of images, those without a row included.
        box_outputs: (P, 4) raw outputs of the box branch (of a class-specific head: the
            ground-truth class's four).
        boxes: (P, 4) XYXY boxes in pixels, decoded from ``box_outputs`` with gradient.
        anchors: (P, 4) XYXY boxes in pixels that ``box_outputs`` are relative to.
        gt_boxes: (P, 4) XYXY boxes in pixels, the object of each positive.
        branch_logits: (R,) raw output of an IoU or centreness branch, if the head has one.
    """

    logits: Tensor
    image: Tensor
    level: Tensor
    num_images: int
    box_outputs: Tensor
    boxes: Tensor
    anchors: Tensor
    gt_boxes: Tensor
    branch_logits: Tensor | None = None


@dataclass
class CriterionOutput:
    """What a criterion returns.

    Attributes:
        losses: scalars with gradient; their sum is what is minimised.
        weights: (P,) detached, the instance weights of the box loss, for further heads (masks).
        task_loss: detached scalar that further heads balance their loss against.
        metrics: detached scalars to log.
    """

    losses: dict[str, Tensor]
    weights: Tensor
    task_loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
