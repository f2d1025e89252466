"""An assigner in one file: the k anchors with the highest IoU for each object, as in YOLO.

YOLOv3 (Redmon and Farhadi, 2018) makes the anchor with the highest IoU positive for each object. It
ignores the other anchors with an IoU above 0.5: they are neither positive nor negative. Here the
same rule applies to the k best anchors, which gives more positives.

    python train_net.py --config-file examples/topk_iou_shapes.py --preview 4
    python train_net.py --config-file examples/topk_iou_shapes.py

The first command draws the positives of four training images; look at them before you train. Copy
the file and change :meth:`TopKIoU.match`.

Shapes: R anchors of one image, G objects, k candidates per object.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ranking_det.assigners import BACKGROUND, IGNORE, Assigner, ImageInputs
from ranking_det.boxes import box_iou
from ranking_det.checks import check_integer, check_that
from ranking_det.row_blocks import blocks


class TopKIoU(Assigner):
    """Assign the ``topk`` anchors with the highest IoU to each object.

    An anchor that is among the best of several objects goes to the object with the highest IoU;
    ties go to the first. The other anchors are ignored if their IoU with any object is at least
    ``ignore_iou``, otherwise they are background.

    Args:
        topk: anchors per object, over all levels together, >= 1.
        min_iou: smallest IoU of a positive, in (0, 1].
        ignore_iou: IoU from which an anchor that is not positive is ignored, in (0, 1].
    """

    needs_grid = False  # it can also match the proposals of an R-CNN

    def __init__(self, topk: int = 9, min_iou: float = 0.2, ignore_iou: float = 0.5) -> None:
        super().__init__()
        check_integer("topk", topk, 1)
        for name, value in (("min_iou", min_iou), ("ignore_iou", ignore_iou)):
            check_that(0 < value <= 1, name, "a number in (0, 1]", value)
        self.topk = topk
        self.min_iou = min_iou
        self.ignore_iou = ignore_iou

    def match(self, image: ImageInputs) -> Tensor:
        """Match the anchors of one image; the base class calls it for each image of the batch.

        Args:
            image: the anchors and objects of the image.

        Returns:
            (R,) int64: the object 0..G-1 of each anchor, or BACKGROUND or IGNORE.
        """
        anchors, gt_boxes, valid = torch.cat(list(image.anchors)), image.gt_boxes, image.valid
        num_objects, k = len(gt_boxes), min(self.topk, len(anchors))
        highest = anchors.new_zeros(len(anchors))  # IoU of each anchor with any object
        ious, index = [highest[:0]], [torch.zeros_like(valid[:0], dtype=torch.int64)]
        # A crowd of 500 objects and 200,000 anchors would need GiBs in one matrix.
        for rows in blocks(num_objects, len(anchors)):
            # Anchors in the padding of the batch are never positive.
            iou = box_iou(gt_boxes[rows, None], anchors).masked_fill(~valid, 0.0)
            highest = torch.maximum(highest, iou.amax(dim=0))
            best = iou.topk(k, dim=1)
            ious.append(best.values.flatten())
            index.append(best.indices.flatten())
        iou, anchor = torch.cat(ious), torch.cat(index)  # (G k,), object by object
        # Scattered, not indexed with a mask: on a GPU that would force a synchronization.
        best_iou = torch.zeros_like(highest).scatter_reduce_(0, anchor, iou, "amax")
        is_best = (iou >= self.min_iou) & (iou == best_iou[anchor])
        candidate = torch.arange(num_objects, device=anchor.device).repeat_interleave(k)
        candidate = torch.where(is_best, candidate, num_objects)
        matched = torch.full_like(valid, num_objects, dtype=torch.int64)
        matched.scatter_reduce_(0, anchor, candidate, "amin")
        unmatched_labels = torch.where(highest >= self.ignore_iou, IGNORE, BACKGROUND)
        return torch.where(matched < num_objects, matched, unmatched_labels)
