"""Assigners: which candidate is to find which object. torch only.

Contract: ``assigner(anchors, gt_boxes, gt_classes, valid, predictions=None) -> Assignment``; see
:class:`ranking_det.assigners.assignment.Assigner`.

- :class:`MaxIoU`: by IoU of the anchor with the object (Faster R-CNN, RetinaNet).
- :class:`FCOS`: by the location's place in the object and the object's size.
- :class:`ATSS`: by an IoU threshold from the statistics of the closest anchors.
- :class:`PAA`: by a mixture of two Gaussians on the training losses of the anchors.
- :class:`NormalizedPAA`: by such a mixture on their normalised scores (PAA* of APE Loss).
"""

from ranking_det.assigners.assignment import Assigner, Assignment, ImageInputs, Predictions
from ranking_det.assigners.atss import ATSS
from ranking_det.assigners.fcos import FCOS
from ranking_det.assigners.max_iou import MaxIoU
from ranking_det.assigners.paa import PAA, NormalizedPAA
from ranking_det.labels import BACKGROUND, IGNORE

__all__ = [name for name, value in globals().items() if callable(value)]
__all__ += ["BACKGROUND", "IGNORE"]
