"""Inputs and outputs of a criterion: plain tensors, the same for every detector.

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
    should_check_values,
)
from ranking_det.labels import IGNORE
from ranking_det.losses.mask_errors import dice_errors


@dataclass(frozen=True)
class BoxTargets:
    """Predicted and matched ground-truth boxes of the P positives, in row order.

    Attributes:
        outputs: (P, 4) raw outputs of the box head (for a class-specific head, the four of the
            ground-truth class).
        boxes: (P, 4) XYXY boxes in pixels, decoded from ``outputs`` with gradient.
        anchors: (P, 4) XYXY boxes in pixels that ``outputs`` are relative to.
        gt_boxes: (P, 4) XYXY boxes in pixels, the ground-truth box matched to each positive.
    """

    outputs: Tensor
    boxes: Tensor
    anchors: Tensor
    gt_boxes: Tensor

    @torch.no_grad()
    def overlap(self) -> Tensor:
        """Compute the IoU (P,) of each box with its object, detached, in float32 or better.

        The IoU of a diverged box is 0. Its box loss is NaN, so the divergence does not go
        unnoticed.
        """
        return box_iou(self.boxes, self.gt_boxes).nan_to_num(0).clamp(0, 1)

    def __getitem__(self, rows: slice) -> BoxTargets:
        """Select the targets of some positives.

        Args:
            rows: the positives.

        Returns:
            Their targets.
        """
        return BoxTargets(*(value[rows] for value in vars(self).values()))


@dataclass(frozen=True)
class MaskTargets:
    """Predicted masks and the ground-truth masks of their objects.

    Attributes:
        logits: (Q, h, w) raw outputs of the mask head for the object's class, with gradient.
        masks: (Q, h, w) ground-truth masks in [0, 1].
        index: (Q,) int64, the positive 0..P-1 that each mask belongs to. A positive may have no
            mask or several.
        areas: (Q,) area of each object's box in pixels of the mask, > 0; None if no loss divides by
            it.
    """

    logits: Tensor
    masks: Tensor
    index: Tensor
    areas: Tensor | None = None

    @torch.no_grad()
    def overlap(self) -> Tensor:
        """Compute the Dice coefficient (Q,) of each mask and its ground truth, detached, in [0, 1].

        See :func:`ranking_det.losses.dice_errors`.
        """
        return (1 - dice_errors(self.logits, self.masks)).clamp(0, 1)


def mean_of_positives(values: Tensor, index: Tensor, num_positives: int) -> Tensor:
    """Average the values of the masks of each positive.

    Args:
        values: (Q,) float, one value per mask.
        index: (Q,) int64, the positive that each mask belongs to.
        num_positives: P.

    Returns:
        (P,), 0 for a positive without a mask.
    """
    sums = values.new_zeros(2, num_positives)
    total, count = sums.index_add_(1, index, torch.stack([values, torch.ones_like(values)]))
    return total / count.clamp(min=1)


@dataclass(frozen=True)
class Candidates:
    """Predictions and targets of one training step, for all images and feature levels.

    Rows are in the order of images, then levels, then cells. The constructor checks the shapes,
    and the values of tensors on the CPU.

    Attributes:
        logits: (R, K) raw class scores.
        labels: (R,) int64, a class 0..K-1, BACKGROUND or IGNORE.
        positives: (P,) int64, ascending, the rows whose label is a class.
        image: (R,) int64, the image of each row, 0..num_images-1.
        level: (R,) int64, the feature level of each row, 0 for the finest.
        num_images: the number of images, including those without rows.
        branch_logits: (R,) raw outputs of the IoU or centerness branch; None for a head without
            one.
        boxes: the boxes of the P positives; None for a detector without boxes.
        masks: the masks of some of the P positives; None for a detector without masks.
        continuous_labels: (P,) in [0, 1], the values that the positives are sorted by, or the
            targets of their scores; None to use their overlap.
        group: the workers that rank their rows together; set by a criterion with the
            ``rank_scope`` "global".

    Raises:
        ValueError: the fields do not fit together.
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
        check_entries(
            "candidates.positives", self.positives, self.positives, "positive", integer=True
        )
        if self.branch_logits is not None:
            check_entries("candidates.branch_logits", self.branch_logits, rows, "row")
        if self.continuous_labels is not None:
            name = "candidates.continuous_labels"
            check_entries(name, self.continuous_labels, self.positives, "positive")
        for name, value in {} if self.boxes is None else vars(self.boxes).items():
            expected = f"shape ({count}, 4), one box for each of the {count} positives"
            check_that(value.shape == (count, 4), f"candidates.boxes.{name}", expected, value)
        if self.masks is not None:
            index, logits = self.masks.index, self.masks.logits
            check_masks(logits, self.masks.masks)
            check_entries("candidates.masks.index", index, logits, "mask", integer=True)
            if self.masks.areas is not None:
                check_entries("candidates.masks.areas", self.masks.areas, logits, "mask")
        if should_check_values(self.labels):
            self._check_values()

    def _check_values(self) -> None:
        image, positives, count = self.image, self.positives, int((self.labels >= 0).sum())
        bounded = not len(image) or bool(0 <= image[0] and image[-1] < self.num_images)
        expected = f"image indices 0..{self.num_images - 1} in ascending order"
        ascending = bool((image.diff() >= 0).all())
        check_that(bounded and ascending, "candidates.image", expected, image)
        inside = not len(positives) or bool(0 <= positives[0] and positives[-1] < len(self.labels))
        is_valid = count == len(positives) and bool((positives.diff() > 0).all()) and inside
        is_valid = is_valid and bool((self.labels[positives] >= 0).all())
        expected = f"the {count} rows whose label is a class, in ascending order"
        check_that(is_valid, "candidates.positives", expected, positives)
        index = positives[:0] if self.masks is None else self.masks.index
        if len(index) and (index.min() < 0 or index.max() >= count):
            raise ValueError(
                f"candidates.masks.index: expected indices of positives in [0, {count}), got "
                f"indices from {int(index.min())} to {int(index.max())}"
            )

    @property
    def box_targets(self) -> BoxTargets:
        """The box targets; an error if the candidates have none.

        Raises:
            ValueError: the candidates have no boxes.
        """
        if self.boxes is None:
            raise ValueError("candidates.boxes: expected the boxes of the positives, got None")
        return self.boxes

    @property
    def mask_targets(self) -> MaskTargets:
        """The mask targets; an error if the candidates have none.

        Raises:
            ValueError: the candidates have no masks.
        """
        if self.masks is None:
            raise ValueError("candidates.masks: expected the masks of the positives, got None")
        return self.masks

    @cached_property
    def overlap(self) -> Tensor:
        """The overlap (P,) of each positive with its object, detached, in [0, 1].

        For detectors with boxes this is the IoU. For detectors without boxes it is the mean Dice
        coefficient of the positive's masks, or 0 for a positive without a mask.
        """
        if self.boxes is not None:
            return self.boxes.overlap()
        targets = self.mask_targets
        return mean_of_positives(targets.overlap(), targets.index, len(self.positives))

    @cached_property
    def quality(self) -> Tensor:
        """The continuous labels (P,), or the overlap if there are none; detached, in [0, 1]."""
        if self.continuous_labels is None:
            return self.overlap
        dtype = torch.float32 if self.boxes is None else self.overlap.dtype
        return self.continuous_labels.detach().to(dtype)

    def entries(self) -> tuple[Tensor, Tensor]:
        """Flatten the (R, K) logits into the M = R K entries that a ranking loss ranks.

        Entry (row r, class c) has index r K + c. Ignored rows stay in place as -inf, which ranking
        losses ignore.

        Returns:
            The logits (M,) and the indices (P,) int64 of the positive entries, in row order.
        """
        ignored = (self.labels == IGNORE)[:, None]
        positives = self.positives * self.logits.shape[1] + self.labels[self.positives]
        return self.logits.masked_fill(ignored, -torch.inf).reshape(-1), positives

    def images(self) -> list[Candidates]:
        """Split the batch into its images, including those without rows.

        Returns:
            One :class:`Candidates` per image, with continuous labels and without masks.
        """
        edges = torch.arange(self.num_images + 1, device=self.image.device)
        bounds = [
            torch.searchsorted(image, edges) for image in (self.image, self.image[self.positives])
        ]
        # One transfer for both, because each one synchronizes host and device.
        row_counts, positive_counts = torch.stack(bounds).diff().tolist()
        # One split: the gradient of each slice would be as large as all the logits.
        logits = self.logits.split(row_counts)
        parts, first_row, first_positive = [], 0, 0
        for i, (row_count, count) in enumerate(zip(row_counts, positive_counts, strict=True)):
            rows = slice(first_row, first_row + row_count)
            positives = slice(first_positive, first_positive + count)
            parts.append(
                Candidates(
                    logits=logits[i],
                    labels=self.labels[rows],
                    positives=self.positives[positives] - first_row,
                    image=torch.zeros_like(self.image[rows]),
                    level=self.level[rows],
                    num_images=1,
                    branch_logits=None if self.branch_logits is None else self.branch_logits[rows],
                    boxes=None if self.boxes is None else self.boxes[positives],
                    continuous_labels=self.quality[positives],
                )
            )
            first_row, first_positive = rows.stop, positives.stop
        return parts


@dataclass
class CriterionOutput:
    """Losses and metrics that a criterion returns.

    Attributes:
        losses: scalars with gradient, by name; training minimizes their sum.
        weights: (P,) detached, the instance weights of the localization losses.
        task_loss: detached scalar, the loss that localization losses are balanced against.
        metrics: detached scalars to log, by name.
    """

    losses: dict[str, Tensor]
    weights: Tensor
    task_loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
