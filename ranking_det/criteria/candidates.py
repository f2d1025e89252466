"""What a criterion takes and returns: plain tensors, whatever detector they come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from ranking_det.boxes import box_iou
from ranking_det.labels import IGNORE
from ranking_det.losses.validation import looks_at_values


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
        quality: (P,) detached, in [0, 1], the continuous labels that a loss ranks the positives by
            or has as targets; None for the IoU of each box with its object.
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
    quality: Tensor | None = None

    @torch.no_grad()
    def iou(self) -> Tensor:
        """The IoU (P,) of each positive's box with its object, in float32 or better.

        That of a diverged box is 0; its box loss is NaN and tells.
        """
        return box_iou(self.boxes, self.gt_boxes).nan_to_num(0).clamp(0, 1)


class Matches(NamedTuple):
    """Candidates and what they are to find: what every component of a criterion sees.

    Attributes:
        candidates: R rows, and the boxes of the P positives.
        labels: (R,) int64, a class or BACKGROUND or IGNORE.
        rows: (P,) int64, the rows whose label is a class.
        iou: (P,) detached, of each positive's box with its object.
        quality: (P,) detached, the continuous labels; the IoU unless the candidates have others.
        group: the workers that share one ranking, or None.
    """

    candidates: Candidates
    labels: Tensor
    rows: Tensor
    iou: Tensor
    quality: Tensor
    group: dist.ProcessGroup | None = None

    def entries(self) -> tuple[Tensor, Tensor]:
        """The (R, K) logits as the M = R K entries that a ranking loss ranks.

        Entry (row r, class c) has index r K + c. Ignored rows become -inf, which never takes part,
        so that no index moves.

        Returns:
            The logits (M,) and the indices (P,) int64 of the positive entries, in row order.
        """
        logits = self.candidates.logits
        ignored = (self.labels == IGNORE)[:, None]
        positives = self.rows * logits.shape[1] + self.labels[self.rows]
        return logits.masked_fill(ignored, -torch.inf).reshape(-1), positives

    def images(self) -> list[Matches]:
        """The images of the batch, each alone, those without a row included."""
        candidates, count = self.candidates, self.candidates.num_images
        edges = torch.arange(count + 1, device=candidates.image.device)
        bounds = [
            torch.searchsorted(image, edges)
            for image in (candidates.image, candidates.image[self.rows])
        ]
        # In one go, as the host waits for the device.
        sizes, own = torch.stack(bounds).diff().tolist()
        # Split at once: the gradients of slices would each be as large as all the logits.
        logits = candidates.logits.split(sizes)
        parts, row, positive = [], 0, 0
        for own_logits, size, positives in zip(logits, sizes, own, strict=True):
            rows, boxes = slice(row, row + size), slice(positive, positive + positives)
            branch, quality = candidates.branch_logits, candidates.quality
            part = Candidates(
                logits=own_logits,
                image=torch.zeros_like(candidates.image[rows]),
                level=candidates.level[rows],
                num_images=1,
                box_outputs=candidates.box_outputs[boxes],
                boxes=candidates.boxes[boxes],
                anchors=candidates.anchors[boxes],
                gt_boxes=candidates.gt_boxes[boxes],
                branch_logits=None if branch is None else branch[rows],
                quality=None if quality is None else quality[boxes],
            )
            own_rows = self.rows[boxes] - row
            parts.append(
                Matches(part, self.labels[rows], own_rows, self.iou[boxes], self.quality[boxes])
            )
            row, positive = rows.stop, boxes.stop
        return parts


@dataclass
class CriterionOutput:
    """What a criterion returns.

    Attributes:
        losses: scalars with gradient; their sum is what is minimised.
        weights: (P,) detached, the instance weights of the box loss, for further heads (masks).
        task_loss: detached scalar that further heads balance their loss against.
        metrics: detached scalars to log.
        group: the workers whose losses these are together, for further heads; None for this one.
    """

    losses: dict[str, Tensor]
    weights: Tensor
    task_loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    group: dist.ProcessGroup | None = None


def check_rows(candidates: Candidates, labels: Tensor) -> None:
    """Raise ValueError unless the fields of rows fit the labels (R,), and images are in order.

    The order is looked at where values are; see :func:`ranking_det.losses.check_values`.
    """
    for name, value in (("image", candidates.image), ("level", candidates.level)):
        if value.shape != labels.shape or value.dtype != torch.int64:
            raise ValueError(
                f"candidates.{name}: expected int64 of shape {tuple(labels.shape)}, one entry per "
                f"row, got {value.dtype} of shape {tuple(value.shape)}"
            )
    branch, image = candidates.branch_logits, candidates.image
    if branch is not None and branch.shape != labels.shape:
        raise ValueError(
            f"candidates.branch_logits: expected shape {tuple(labels.shape)}, one entry per row, "
            f"got {tuple(branch.shape)}"
        )
    if not looks_at_values(image) or not len(image):
        return
    if (image.diff() < 0).any() or image[0] < 0 or image[-1] >= candidates.num_images:
        raise ValueError(
            f"candidates.image: expected ascending images 0..{candidates.num_images - 1}, as rows "
            "are image-major"
        )
