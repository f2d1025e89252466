"""TIDE: kinds of detection errors, and the AP that each of them costs.

D. Bolya, S. Foley, J. Hays, J. Hoffman: TIDE: A General Toolbox for Identifying Object Detection
Errors, ECCV 2020, sections 2.2 and 2.3. Written from the definitions in the paper.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ranking_det.evaluation.matching import Detections, Matches, Overlaps, free_objects
from ranking_det.evaluation.precision_recall import ranking_ap

FALSE_POSITIVE_KINDS = ("classification", "localization", "both", "duplicate", "background")
"""The kinds of false positives; an :class:`ErrorKinds` has indices into them."""

MISSED = "missed"
"""The kind of the objects that are not detected."""

MIN_IOU, BACKGROUND_IOU = 0.5, 0.1
"""TIDE's foreground and background thresholds: the minimum IoU of a match, and the maximum IoU of a
false positive on background."""


class ErrorKinds(NamedTuple):
    """The errors of D detections of G objects.

    Attributes:
        kind: (D,) int64, index into :data:`FALSE_POSITIVE_KINDS`; -1 for true positives and ignored
            detections.
        target: (D,) int64, index of the object that a detection with the wrong class or location
            belongs to; -1 for all others.
        missed: (G,) bool, undetected objects that are no detection's target.
    """

    kind: np.ndarray
    target: np.ndarray
    missed: np.ndarray


def classify_errors(detections: Detections, matches: Matches, cross_class: Overlaps) -> ErrorKinds:
    """Classify false positives and missed objects by TIDE's kinds of errors.

    A false positive is of the first kind in this list whose condition holds:

    - localization: its highest IoU with objects of its class is .1 to .5;
    - classification: its highest IoU with objects of other classes is at least .5;
    - duplicate: its highest IoU with objects of its class is at least .5, and a detection with a
      higher score is matched with the object;
    - background: its highest IoU with all objects is at most .1;
    - both: its highest IoU with objects of other classes is .1 to .5.

    Crowds do not count as objects here.

    Args:
        detections: the detections of all images.
        matches: their matches at :data:`MIN_IOU`.
        cross_class: the objects of other classes that they overlap, computed with a minimum IoU of
            at most :data:`BACKGROUND_IOU`.

    Returns:
        The kinds of the false positives, and the missed objects.
    """
    is_counted = ~detections.objects.crowd[detections.overlaps.target]
    same_class = Overlaps(*(column[is_counted] for column in detections.overlaps))
    number = len(detections.score)
    same_class_target, same_class_iou = _best_overlaps(same_class, number)
    other_class_target, other_class_iou = _best_overlaps(cross_class, number)
    false = ~matches.ignored & (matches.iou == 0)
    near = (same_class_iou >= BACKGROUND_IOU) & (same_class_iou <= MIN_IOU)
    conditions = {
        "localization": near,
        "classification": other_class_iou >= MIN_IOU,
        "duplicate": same_class_iou >= MIN_IOU,
        "background": np.maximum(same_class_iou, other_class_iou) <= BACKGROUND_IOU,
        "both": np.ones(number, bool),
    }
    kind, target = np.full(number, -1), np.full(number, -1)
    for name, holds in conditions.items():
        kind[false & holds & (kind < 0)] = FALSE_POSITIVE_KINDS.index(name)
    for name, targets in (
        ("localization", same_class_target),
        ("classification", other_class_target),
    ):
        rows = kind == FALSE_POSITIVE_KINDS.index(name)
        target[rows] = targets[rows]
    missed = free_objects(detections, matches, matches.iou > 0)
    missed[target[target >= 0]] = False
    return ErrorKinds(kind, target, missed)


def count_errors(detections: Detections, errors: ErrorKinds) -> dict[str, np.ndarray]:
    """Count the errors of each kind.

    Args:
        detections: the detections of all images.
        errors: their errors.

    Returns:
        By kind of error: (K,) int64, the number of detections of each class, or of objects for
        :data:`MISSED`.
    """
    number = detections.num_classes
    counts = {
        name: np.bincount(detections.label[errors.kind == index], minlength=number)
        for index, name in enumerate(FALSE_POSITIVE_KINDS)
    }
    missed = detections.objects.label[errors.missed]
    return {**counts, MISSED: np.bincount(missed, minlength=number)}


def oracle_ap(
    detections: Detections, matches: Matches, errors: ErrorKinds
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Compute AP50, and what it would be without the errors of one kind: TIDE's oracles.

    A detection with the wrong class gets the class of its object, one with the wrong location the
    location of its object. It is removed instead if the object is matched already, or if a
    corrected detection with a higher score has it. Unlike the paper, but like TIDE's program, a
    match stays even if its score is lower than that of the corrected detection. Other false
    positives are removed. Missed objects no longer count, so a class whose objects are all missed
    has no AP. The differences from AP50 do not add up to 1 - AP50, because each kind is corrected
    without the others.

    Args:
        detections: the detections of all images.
        matches: their matches at :data:`MIN_IOU`.
        errors: their errors.

    Returns:
        (K,) AP50 of the classes in [0, 1], NaN without objects; and by kind of error, the same with
        this kind corrected.
    """
    objects, is_counted = detections.objects, ~matches.ignored
    true = is_counted & (matches.iou > 0)
    free = free_objects(detections, matches, true)
    total = matches.num_objects
    corrected = {}
    for index, name in enumerate(FALSE_POSITIVE_KINDS):
        error = errors.kind == index
        # The other kinds have no targets.
        rows = np.flatnonzero(error & (errors.target >= 0))
        rows = rows[free[errors.target[rows]]]
        # Stable: of equal scores, the first detection has the object.
        rows = rows[np.argsort(-detections.score[rows], kind="stable")]
        rows = rows[np.unique(errors.target[rows], return_index=True)[1]]
        label, is_true, remaining = detections.label.copy(), true.copy(), is_counted & ~error
        label[rows] = objects.label[errors.target[rows]]
        is_true[rows] = remaining[rows] = True
        corrected[name] = _ap_of_classes(detections.score, label, is_true, remaining, total)
    remaining_objects = total - count_errors(detections, errors)[MISSED]
    unchanged = (detections.score, detections.label, true, is_counted)
    corrected[MISSED] = _ap_of_classes(*unchanged, remaining_objects)
    return _ap_of_classes(*unchanged, total), corrected


def _best_overlaps(overlaps: Overlaps, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the object with the highest IoU for each detection, and this IoU; else -1 and 0."""
    order = np.lexsort((overlaps.target, overlaps.iou, overlaps.detection))
    target, iou = np.full(number, -1), np.zeros(number)
    # The last one of a detection has the highest IoU.
    target[overlaps.detection[order]] = overlaps.target[order]
    iou[overlaps.detection[order]] = overlaps.iou[order]
    return target, iou


def _ap_of_classes(
    score: np.ndarray,
    label: np.ndarray,
    true: np.ndarray,
    is_counted: np.ndarray,
    num_objects: np.ndarray,
) -> np.ndarray:
    """Return the AP of each class at one IoU, in [0, 1], of the detections that count."""
    rows = np.flatnonzero(is_counted)
    # Stable: equal scores stay in the order of the detections.
    rows = rows[np.lexsort((-score[rows], label[rows]))]
    starts = np.searchsorted(label[rows], np.arange(len(num_objects) + 1))
    parts = np.split(true[rows], starts[1:-1])
    return np.array([ranking_ap(*pair) for pair in zip(parts, num_objects.tolist(), strict=True)])
