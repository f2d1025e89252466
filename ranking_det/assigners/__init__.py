"""Assigners: match anchors, points or proposals to ground-truth objects; torch only.

Contract: ``assigner(anchors, gt_boxes, gt_classes, valid, predictions=None) -> Assignment``; see
:class:`ranking_det.assigners.assignment.Assigner`.

- :class:`MaxIoU`: by the IoU of anchor and object (Faster R-CNN, RetinaNet).
- :class:`FCOS`: by the position of the location in the object, and the size of the object.
- :class:`ATSS`: by an IoU threshold from the statistics of the closest anchors.
- :class:`CenterRegion`: cells of a grid in the central region of an object (SOLO).
- :class:`PAA`: by a mixture of two Gaussians on the training losses of the anchors.
- :class:`NormalizedPAA`: by a mixture of two Gaussians on normalized scores (PAA* of APE Loss).
"""

from ranking_det.assigners.assignment import Assigner, Assignment, ImageInputs, Predictions
from ranking_det.assigners.atss import ATSS
from ranking_det.assigners.center_region import CenterRegion
from ranking_det.assigners.fcos import FCOS
from ranking_det.assigners.max_iou import MaxIoU
from ranking_det.assigners.paa import PAA, NormalizedPAA
from ranking_det.labels import BACKGROUND, IGNORE

__all__ = [name for name, value in globals().items() if callable(value)]
__all__ += ["BACKGROUND", "IGNORE"]
