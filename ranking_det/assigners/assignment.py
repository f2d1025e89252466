"""The contract of all assigners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ranking_det.labels import BACKGROUND, IGNORE


class Predictions(NamedTuple):
    """What the model predicts for each candidate, detached, for assigners that ask for it.

    Attributes:
        logits: (R, K) raw class scores.
        boxes: (R, 4) decoded XYXY boxes in pixels.
    """

    logits: Tensor
    boxes: Tensor


class Assignment(NamedTuple):
    """Which object each of the R candidates is to find.

    Attributes:
        labels: (R,) int64, the class 0..K-1 of a positive, or BACKGROUND or IGNORE.
        gt_index: (R,) int64, the object of a positive as an index into the batch's concatenated
            ground truth; -1 if not positive.
    """

    labels: Tensor
    gt_index: Tensor


class Assigner(nn.Module):
    """Base class: splits the batch into images; a subclass matches the objects of one image.

    A subclass that gains from seeing all images at once overrides :meth:`match_all` instead.

    Attributes:
        needs_predictions: whether it is to be given the predictions of the step.
        needs_grid: whether it is for anchors on the cells of feature maps, and not for proposals.
        one_per_location: whether it needs one square anchor of 8 strides per cell.
    """

    needs_predictions = False
    needs_grid = True
    one_per_location = False

    @property
    def num_levels(self) -> int | None:
        """The number of feature levels that it is for; None for any."""
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
        """Assign the candidates of a batch.

        Args:
            anchors: per level (R_l, 4) XYXY boxes in pixels, the same for every image.
            gt_boxes: per image (G_i, 4) XYXY boxes in pixels; G_i may be 0.
            gt_classes: per image (G_i,) int64 in 0..K-1.
            valid: (R,) bool, False for candidates in the padding of the batch, which are ignored;
                R = number of images x sum of R_l, image-major, then level.
            predictions: of all R candidates; only for assigners with ``needs_predictions``.

        Returns:
            The assignment of all R candidates.

        Raises:
            ValueError: the shapes do not fit each other, or predictions are missing.
        """
        num_anchors = sum(len(level) for level in anchors)
        self._check(num_anchors, gt_boxes, gt_classes, valid, predictions)
        matched = self.match_all(anchors, gt_boxes, gt_classes, valid, predictions)
        positive = matched >= 0
        # Clamped, not masked: indexing with a mask would synchronise host and device. One class
        # more, so that there is something to index without an object.
        classes = torch.cat([*gt_classes, matched.new_zeros(1)])
        labels = torch.where(positive, classes[matched.clamp(min=0)], matched)
        return Assignment(labels.masked_fill(~valid, IGNORE), torch.where(positive, matched, -1))

    def match_all(
        self,
        anchors: Sequence[Tensor],
        gt_boxes: Sequence[Tensor],
        gt_classes: Sequence[Tensor],
        valid: Tensor,
        predictions: Predictions | None,
    ) -> Tensor:
        """Match the candidates of a batch: by default image by image.

        Args:
            anchors: per level (R_l, 4).
            gt_boxes: per image (G_i, 4).
            gt_classes: per image (G_i,) int64.
            valid: (R,) bool; a candidate that is not valid must not be matched.
            predictions: of all R candidates.

        Returns:
            (R,) int64: the object as an index into the batch's concatenated ground truth, or
            BACKGROUND or IGNORE.
        """
        num_anchors = sum(len(level) for level in anchors)
        matched, offset = [torch.zeros(0, dtype=torch.int64, device=valid.device)], 0
        for i, (boxes, classes) in enumerate(zip(gt_boxes, gt_classes, strict=True)):
            rows = slice(i * num_anchors, (i + 1) * num_anchors)
            own = predictions and Predictions(predictions.logits[rows], predictions.boxes[rows])
            found = self.match(anchors, boxes, classes, valid[rows], own)
            matched.append(torch.where(found >= 0, found + offset, found))
            offset += len(boxes)
        return torch.cat(matched)

    def match(
        self,
        anchors: Sequence[Tensor],
        gt_boxes: Tensor,
        gt_classes: Tensor,
        valid: Tensor,
        predictions: Predictions | None,
    ) -> Tensor:
        """Match the candidates of one image.

        Args:
            anchors: per level (R_l, 4).
            gt_boxes: (G, 4); G may be 0.
            gt_classes: (G,) int64.
            valid: (sum of R_l,) bool; a candidate that is not valid must not be matched.
            predictions: of this image's candidates.

        Returns:
            (sum of R_l,) int64: the index 0..G-1 of the object, or BACKGROUND or IGNORE.
        """
        raise NotImplementedError

    def _check(
        self,
        num_anchors: int,
        gt_boxes: Sequence[Tensor],
        gt_classes: Sequence[Tensor],
        valid: Tensor,
        predictions: Predictions | None,
    ) -> None:
        if len(gt_boxes) != len(gt_classes):
            raise ValueError(
                f"gt_boxes and gt_classes must be of the same images, got {len(gt_boxes)} and "
                f"{len(gt_classes)}"
            )
        for i, (boxes, classes) in enumerate(zip(gt_boxes, gt_classes, strict=True)):
            if classes.dim() != 1 or classes.dtype != torch.int64:
                raise ValueError(
                    f"gt_classes[{i}] must be int64 of one dimension, got {classes.dtype} of shape "
                    f"{tuple(classes.shape)}"
                )
            if boxes.shape != (len(classes), 4):
                raise ValueError(
                    f"gt_boxes[{i}] must have shape ({len(classes)}, 4) as gt_classes[{i}] has "
                    f"{len(classes)} entries, got {tuple(boxes.shape)}"
                )
        expected = len(gt_boxes) * num_anchors
        if valid.shape != (expected,) or valid.dtype != torch.bool:
            raise ValueError(
                f"valid must be bool of shape ({expected},), one per image and anchor, got "
                f"{valid.dtype} of shape {tuple(valid.shape)}"
            )
        if self.needs_predictions and predictions is None:
            raise ValueError(f"{type(self).__name__} needs predictions, got None")
        if self.needs_predictions and predictions is not None:
            logits, decoded = predictions
            if logits.dim() != 2 or len(logits) != expected or decoded.shape != (expected, 4):
                raise ValueError(
                    f"predictions must have logits of shape ({expected}, K) and boxes of shape "
                    f"({expected}, 4), got {tuple(logits.shape)} and {tuple(decoded.shape)}"
                )


def unmatched(valid: Tensor) -> Tensor:
    """All candidates of an image as background, the start of every matching: (R,) int64."""
    return torch.full_like(valid, BACKGROUND, dtype=torch.int64)
