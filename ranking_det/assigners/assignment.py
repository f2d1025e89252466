"""Base class of assigners, with their inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ranking_det.checks import check_classes, check_that
from ranking_det.labels import BACKGROUND, IGNORE


class Predictions(NamedTuple):
    """Detached predictions of the model, for assigners that need them.

    Attributes:
        logits: (R, K) raw class scores.
        boxes: (R, 4) decoded XYXY boxes in pixels.
    """

    logits: Tensor
    boxes: Tensor


class ImageInputs(NamedTuple):
    """Candidates and ground-truth objects of one image.

    Attributes:
        anchors: for each level (R_l, 4) XYXY boxes in pixels; R is the sum of the R_l.
        gt_boxes: (G, 4) XYXY boxes in pixels; G may be 0.
        gt_classes: (G,) int64 in 0..K-1.
        valid: (R,) bool; a candidate that is not valid must not be matched.
        predictions: the predictions for the R candidates, for assigners with
            ``needs_predictions``; otherwise None.
    """

    anchors: Sequence[Tensor]
    gt_boxes: Tensor
    gt_classes: Tensor
    valid: Tensor
    predictions: Predictions | None = None


class BatchInputs(NamedTuple):
    """Candidates and ground-truth objects of a batch, with R candidates in all images together.

    Attributes:
        anchors: for each level (R_l, 4) XYXY boxes in pixels, the same for every image.
        gt_boxes: for each image (G_i, 4) XYXY boxes in pixels; G_i may be 0.
        gt_classes: for each image (G_i,) int64 in 0..K-1.
        valid: (R,) bool; a candidate that is not valid must not be matched.
        predictions: the predictions for the R candidates, for assigners with
            ``needs_predictions``; otherwise None.
    """

    anchors: Sequence[Tensor]
    gt_boxes: Sequence[Tensor]
    gt_classes: Sequence[Tensor]
    valid: Tensor
    predictions: Predictions | None = None


class Assignment(NamedTuple):
    """Class labels and matched ground-truth objects of the R candidates.

    Attributes:
        labels: (R,) int64, the class 0..K-1 of a positive, BACKGROUND or IGNORE.
        gt_index: (R,) int64, the object of a positive as an index into the batch's concatenated
            ground truth; -1 for candidates that are not positive.
    """

    labels: Tensor
    gt_index: Tensor


class Assigner(nn.Module):
    """Base class of assigners: match anchors to ground-truth objects, image by image.

    A subclass defines :meth:`match`, which matches the objects of one image. A subclass that is
    faster on a whole batch overrides :meth:`match_all` instead.

    Attributes:
        needs_predictions: whether the assigner needs the predictions of the step.
        needs_grid: whether it needs anchors on the cells of feature maps; False if it can also
            match proposals.
        one_per_location: whether it needs one square anchor of 8 strides per cell.
    """

    needs_predictions = False
    needs_grid = True
    one_per_location = False

    @property
    def num_levels(self) -> int | None:
        """The number of feature levels that the assigner needs; None for any."""
        return None

    @torch.no_grad()
    def forward(
        self,
        anchors: Sequence[Tensor],
        gt_boxes: Sequence[Tensor],
        gt_classes: Sequence[Tensor],
        valid: Tensor,
        predictions: Predictions | None = None,
    ) -> Assignment:
        """Assign anchors to the ground-truth objects of a batch.

        Args:
            anchors: for each level (R_l, 4) XYXY boxes in pixels, the same for every image.
            gt_boxes: for each image (G_i, 4) XYXY boxes in pixels; G_i may be 0.
            gt_classes: for each image (G_i,) int64 in 0..K-1.
            valid: (R,) bool, False for candidates in the padding of the batch, which are ignored;
                R = number of images x sum of R_l, in the order of images, then levels.
            predictions: the predictions for all R candidates; only for assigners with
                ``needs_predictions``.

        Returns:
            The assignment of all R candidates.

        Raises:
            ValueError: the shapes do not fit together, predictions are missing, or a class is out
                of range (checked on the CPU).
        """
        num_classes = None if predictions is None else predictions.logits.shape[-1]
        _check_objects(gt_boxes, gt_classes, num_classes)
        num_rows = len(gt_boxes) * sum(len(level) for level in anchors)
        is_valid = valid.shape == (num_rows,) and valid.dtype == torch.bool
        expected = f"bool of shape ({num_rows},), one per image and anchor"
        check_that(is_valid, "valid", expected, valid)
        if self.needs_predictions:
            _check_predictions(type(self).__name__, predictions, num_rows)
        matched = self.match_all(BatchInputs(anchors, gt_boxes, gt_classes, valid, predictions))
        positive = matched >= 0
        # Clamped, because indexing with a mask would synchronize host and device. The additional
        # class allows indexing in a batch without objects.
        classes = torch.cat([*gt_classes, matched.new_zeros(1)])
        labels = torch.where(positive, classes[matched.clamp(min=0)], matched)
        return Assignment(labels.masked_fill(~valid, IGNORE), torch.where(positive, matched, -1))

    def match_all(self, batch: BatchInputs) -> Tensor:
        """Match the candidates of a batch, by default image by image.

        Args:
            batch: the candidates and objects of the batch.

        Returns:
            (R,) int64: the object as an index into the batch's concatenated ground truth,
            BACKGROUND or IGNORE.
        """
        anchors, gt_boxes, gt_classes, valid, predictions = batch
        num_anchors = sum(len(level) for level in anchors)
        matched, offset = [torch.zeros(0, dtype=torch.int64, device=valid.device)], 0
        for i, (boxes, classes) in enumerate(zip(gt_boxes, gt_classes, strict=True)):
            rows = slice(i * num_anchors, (i + 1) * num_anchors)
            predicted = predictions and Predictions(*(values[rows] for values in predictions))
            index = self.match(ImageInputs(anchors, boxes, classes, valid[rows], predicted))
            matched.append(torch.where(index >= 0, index + offset, index))
            offset += len(boxes)
        return torch.cat(matched)

    def match(self, image: ImageInputs) -> Tensor:
        """Match the candidates of one image.

        Args:
            image: the candidates and objects of the image.

        Returns:
            (R,) int64: the index 0..G-1 of the object, BACKGROUND or IGNORE.

        Raises:
            NotImplementedError: a subclass must define it, unless it overrides :meth:`match_all`.
        """
        raise NotImplementedError


def _check_objects(
    gt_boxes: Sequence[Tensor], gt_classes: Sequence[Tensor], num_classes: int | None
) -> None:
    counts = len(gt_boxes), len(gt_classes)
    is_valid = counts[0] == counts[1]
    check_that(is_valid, "gt_boxes, gt_classes", "one entry per image in both", counts)
    for i, (boxes, classes) in enumerate(zip(gt_boxes, gt_classes, strict=True)):
        is_valid = classes.dim() == 1 and classes.dtype == torch.int64
        check_that(is_valid, f"gt_classes[{i}]", "a one-dimensional int64 tensor", classes)
        expected = f"shape ({len(classes)}, 4), as gt_classes[{i}] has length {len(classes)}"
        check_that(boxes.shape == (len(classes), 4), f"gt_boxes[{i}]", expected, boxes)
        check_classes(f"gt_classes[{i}]", classes, num_classes)


def _check_predictions(assigner: str, predictions: Predictions | None, num_rows: int) -> None:
    if predictions is None:
        raise ValueError(f"predictions: expected Predictions, which {assigner} needs, got None")
    logits, decoded = predictions
    is_valid = logits.dim() == 2 and len(logits) == num_rows and decoded.shape == (num_rows, 4)
    expected = f"logits of shape ({num_rows}, K) and boxes of shape ({num_rows}, 4)"
    check_that(is_valid, "predictions", expected, (tuple(logits.shape), tuple(decoded.shape)))


def unmatched(valid: Tensor) -> Tensor:
    """Return a matching in which all candidates are background.

    Args:
        valid: (R,) bool, any values.

    Returns:
        (R,) int64, all BACKGROUND.
    """
    return torch.full_like(valid, BACKGROUND, dtype=torch.int64)
