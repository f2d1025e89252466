"""Assigners: which candidate is to find which object. torch only.

Contract: ``assigner(anchors, gt_boxes, gt_classes, valid, predictions=None) -> Assignment``; see
:class:`ranking_det.assigners.assignment.Assigner`.

- :class:`MaxIoU`: by IoU of the anchor with the object (Faster R-CNN, RetinaNet).
- :class:`ATSS`: by an IoU threshold from the statistics of the closest anchors.
"""

from ranking_det.assigners.assignment import Assigner, Assignment, Predictions
from ranking_det.assigners.atss import ATSS
from ranking_det.assigners.max_iou import MaxIoU
from ranking_det.labels import BACKGROUND, IGNORE

__all__ = ["ATSS", "BACKGROUND", "IGNORE", "Assigner", "Assignment", "MaxIoU", "Predictions"]
