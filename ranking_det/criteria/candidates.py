"""What a criterion takes and returns: plain tensors, whatever detector they come from.

Shapes: R rows (anchors, points or RoIs) of all levels and images, K classes, M = R K ranked
entries, P positives, Q predicted masks of h x w pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch import distributed as dist

from ranking_det.boxes import box_iou
from ranking_det.checks import (
    check_entries,
    check_labels,
    check_masks,
    check_that,
    looks_at_values,
)
from ranking_det.labels import IGNORE
from ranking_det.losses.mask_errors import dice_errors


@dataclass(frozen=True)
class BoxTargets:
    """The predicted boxes of the P positives and their objects, in row order.

    Attributes:
        outputs: (P, 4) raw outputs of the box branch (of a class-specific head: the ground-truth
            class's four).
        boxes: (P, 4) XYXY boxes in pixels, decoded from ``outputs`` with gradient.
        anchors: (P, 4) XYXY boxes in pixels that ``outputs`` are relative to.
        gt_boxes: (P, 4) XYXY boxes in pixels, the object of each positive.
    """

    outputs: Tensor
    boxes: Tensor
    anchors: Tensor
    gt_boxes: Tensor

    @torch.no_grad()
    def overlap(self) -> Tensor:
        """The IoU (P,) of each box with its object, detached, in float32 or better.

        That of a diverged box is 0; its box loss is NaN and tells.
        """
        return box_iou(self.boxes, self.gt_boxes).nan_to_num(0).clamp(0, 1)

    def __getitem__(self, rows: slice) -> BoxTargets:
        """Those of some positives."""
        return BoxTargets(*(value[rows] for value in vars(self).values()))


@dataclass(frozen=True)
class MaskTargets:
    """Q predicted masks and those of the objects they are to find.

    Attributes:
        logits: (Q, h, w) raw, each of its object's class, with gradient.
        masks: (Q, h, w) in [0, 1], of the objects.
        index: (Q,) int64, the positive 0..P-1 of each; it may leave some out or name one twice.
    """

    logits: Tensor
    masks: Tensor
    index: Tensor

    @torch.no_grad()
    def overlap(self) -> Tensor:
        """The Dice coefficient (Q,) of each mask with its object's, detached, in [0, 1]."""
        return (1 - dice_errors(self.logits, self.masks)).clamp(0, 1)


@dataclass(frozen=True)
class Candidates:
    """The predictions of one step and what they are to find, for all images and levels together.

    Rows are image-major, then level, then cell. Shapes are checked here, values where they are on
    the CPU.

    Attributes:
        logits: (R, K) raw class scores.
        labels: (R,) int64, a class 0..K-1 or BACKGROUND or IGNORE.
        positives: (P,) int64, ascending, the rows whose label is a class.
        image: (R,) int64, the image of a row, 0..num_images-1.
        level: (R,) int64, the feature level of a row, 0 for the finest.
        num_images: the number of images, those without a row included.
        branch_logits: (R,) raw output of an IoU or centreness branch, if the head has one.
        boxes: of the P positives; None for a detector without boxes.
        masks: of some of the P positives; None for a detector without masks.
        continuous_labels: (P,) in [0, 1], what the positives are sorted by, or what their scores
            are to be; None for their overlap.
        group: the workers whose rows are ranked together; set by a criterion that does so.

    Raises:
        ValueError: fields do not fit each other.
    """

    logits: Tensor
    labels: Tensor
    positives: Tensor
    image: Tensor
    level: Tensor
    num_images: int
    branch_logits: Tensor | None = None
    boxes: BoxTargets | None = None
    masks: MaskTargets | None = None
    continuous_labels: Tensor | None = None
    group: dist.ProcessGroup | None = None

    def __post_init__(self) -> None:
        rows, count = self.labels, len(self.positives)
        check_labels("candidates.logits", self.logits, self.labels)
        check_entries("candidates.image", self.image, rows, "row", integer=True)
        check_entries("candidates.level", self.level, rows, "row", integer=True)
        check_entries("candidates.positives", self.positives, self.positives, "row", integer=True)
        if self.branch_logits is not None:
            check_entries("candidates.branch_logits", self.branch_logits, rows, "row")
        if self.continuous_labels is not None:
            name = "candidates.continuous_labels"
            check_entries(name, self.continuous_labels, self.positives, "positive")
        for name, value in {} if self.boxes is None else vars(self.boxes).items():
            expected = f"one row of 4 for each of the {count} positive labels"
            check_that(value.shape == (count, 4), f"candidates.boxes.{name}", expected, value)
        if self.masks is not None:
            index, logits = self.masks.index, self.masks.logits
            check_masks(logits, self.masks.masks)
            check_entries("candidates.masks.index", index, logits, "mask", integer=True)
        if looks_at_values(self.labels):
            self._check_values()

    def _check_values(self) -> None:
        image, positives, count = self.image, self.positives, int((self.labels >= 0).sum())
        bounded = not len(image) or bool(0 <= image[0] and image[-1] < self.num_images)
        expected = f"ascending images 0..{self.num_images - 1}, as rows are image-major"
        ascending = bool((image.diff() >= 0).all())
        check_that(bounded and ascending, "candidates.image", expected, image)
        inside = not len(positives) or bool(0 <= positives[0] and positives[-1] < len(self.labels))
        right = count == len(positives) and bool((positives.diff() > 0).all()) and inside
        right = right and bool((self.labels[positives] >= 0).all())
        expected = f"the {count} rows whose label is a class, ascending"
        check_that(right, "candidates.positives", expected, positives)
        index = positives[:0] if self.masks is None else self.masks.index
        if len(index) and (index.min() < 0 or index.max() >= count):
            raise ValueError(
                f"candidates.masks.index: expected positives 0..{count - 1}, got "
                f"{int(index.min())} to {int(index.max())}"
            )

    @property
    def box_targets(self) -> BoxTargets:
        """``boxes``, for a component that needs them; ValueError if there are none."""
        if self.boxes is None:
            raise ValueError("candidates.boxes: expected the boxes of the positives, got None")
        return self.boxes

    @property
    def mask_targets(self) -> MaskTargets:
        """``masks``, for a component that needs them; ValueError if there are none."""
        if self.masks is None:
            raise ValueError("candidates.masks: expected the masks of positives, got None")
        return self.masks

    @cached_property
    def overlap(self) -> Tensor:
        """The overlap (P,) of each positive with its object, detached, in [0, 1].

        The IoU of its box; of a detector without boxes the mean Dice coefficient of its masks, 0
        for a positive without one.
        """
        if self.boxes is not None:
            return self.boxes.overlap()
        coefficients, index = self.mask_targets.overlap(), self.mask_targets.index
        sums = coefficients.new_zeros(2, len(self.positives))
        terms = torch.stack([coefficients, torch.ones_like(coefficients)])
        total, count = sums.index_add_(1, index, terms)
        return total / count.clamp(min=1)

    @cached_property
    def quality(self) -> Tensor:
        """The continuous labels (P,), detached, in [0, 1]; the overlap if none are given."""
        if self.continuous_labels is None:
            return self.overlap
        dtype = torch.float32 if self.boxes is None else self.overlap.dtype
        return self.continuous_labels.detach().to(dtype)

    def entries(self) -> tuple[Tensor, Tensor]:
        """The (R, K) logits as the M = R K entries that a ranking loss ranks.

        Entry (row r, class c) has index r K + c. Ignored rows become -inf, which never takes part,
        so that no index moves.

        Returns:
            The logits (M,) and the indices (P,) int64 of the positive entries, in row order.
        """
        ignored = (self.labels == IGNORE)[:, None]
        positives = self.positives * self.logits.shape[1] + self.labels[self.positives]
        return self.logits.masked_fill(ignored, -torch.inf).reshape(-1), positives

    def images(self) -> list[Candidates]:
        """The images of the batch, each alone, those without a row included.

        They have continuous labels, and no masks.
        """
        edges = torch.arange(self.num_images + 1, device=self.image.device)
        bounds = [
            torch.searchsorted(image, edges) for image in (self.image, self.image[self.positives])
        ]
        # In one go, as the host waits for the device.
        row_counts, positive_counts = torch.stack(bounds).diff().tolist()
        # Split at once: the gradients of slices would each be as large as all the logits.
        logits = self.logits.split(row_counts)
        parts, first_row, first_positive = [], 0, 0
        for i, (row_count, count) in enumerate(zip(row_counts, positive_counts, strict=True)):
            rows = slice(first_row, first_row + row_count)
            chosen = slice(first_positive, first_positive + count)
            parts.append(
                Candidates(
                    logits=logits[i],
                    labels=self.labels[rows],
                    positives=self.positives[chosen] - first_row,
                    image=torch.zeros_like(self.image[rows]),
                    level=self.level[rows],
                    num_images=1,
                    branch_logits=None if self.branch_logits is None else self.branch_logits[rows],
                    boxes=None if self.boxes is None else self.boxes[chosen],
                    continuous_labels=self.quality[chosen],
                )
            )
            first_row, first_positive = rows.stop, chosen.stop
        return parts


@dataclass
class CriterionOutput:
    """What a criterion returns.

    Attributes:
        losses: scalars with gradient; their sum is what is minimised.
        weights: (P,) detached, the instance weights of the localisation losses.
        task_loss: detached scalar, what localisation losses are balanced against.
        metrics: detached scalars to log.
    """

    losses: dict[str, Tensor]
    weights: Tensor
    task_loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
