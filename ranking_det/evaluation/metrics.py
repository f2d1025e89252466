"""From annotations and results to AP, by the rules of COCO or of LVIS."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ranking_det.evaluation.libraries import Library, check_library, interpolated_precision
from ranking_det.user_errors import UserError

__all__ = ["MAX_DETS", "average_precision"]

Rules = Literal["coco", "lvis"]

MAX_DETS: dict[Rules, int] = {"coco": 100, "lvis": 300}
"""Detections of an image that count: of each class by COCO's rules, of all together by LVIS's."""

MOST_DETS = 1_000_000
"""What the libraries take for a limit."""

FIELDS = {"bbox": "bbox", "segm": "segmentation"}
"""What results must have for an IoU type."""

Result = dict[str, Any]


def average_precision(
    ground_truth: dict[str, Any],
    results: Iterable[Mapping[str, Any]],
    iou_type: str,
    *,
    rules: Rules = "coco",
    library: Library = "faster-coco-eval",
    max_dets: int | None = None,
    classes: Mapping[int, str] | None = None,
) -> dict[str, float]:
    """AP in percent, averaged over IoU .50 to .95, 101 recalls, and classes.

    COCO's rules are those of pycocotools, LVIS's those of lvis-api: the annotation is federated
    (A. Gupta, P. Dollár, R. Girshick: LVIS, CVPR 2019, section 2), so that only those detections
    can be wrong whose class is among the objects of the image or in its ``neg_category_ids``, and
    those without an object are left out if the class is in ``not_exhaustive_category_ids``.

    The area of a detected mask is its own, not that of a box which the result may have beside, as
    in Detectron2. Where there are objects and no detection AP is 0, be it of one class or of all.
    Unlike lvis-api, an annotation with ``iscrowd`` is a crowd by LVIS's rules too; LVIS has none.

    Args:
        ground_truth: the content of an annotation file, as :func:`prepare_ground_truth` leaves it.
        results: of a result file: ``image_id``, ``category_id``, ``score``, and ``bbox`` (x, y,
            width, height in pixels) or ``segmentation`` (compressed RLE). They stay as they are.
        iou_type: "bbox" or "segm".
        rules: "coco" or "lvis".
        library: which matches; "pycocotools" is slower, for COCO's rules only, and agrees.
        max_dets: see :data:`MAX_DETS`, which it replaces.
        classes: names by category id, of the classes that count; all of the file by default.

    Returns:
        AP, AP50, AP75, APs, APm, APl; by LVIS's rules APr, APc, APf; with more than one class an
        ``AP-<class>`` of each. NaN where there is no object.

    Raises:
        UserError: the library is not there, or does not know the rules, or ``max_dets`` is not
            from 1 to :data:`MOST_DETS`.
    """
    lvis = rules == "lvis"
    check_library(library, lvis=lvis)
    limit = choose_max_dets(max_dets, rules, "max_dets")
    categories = ground_truth["categories"]
    if classes is None:
        classes = {category["id"]: category["name"] for category in categories}
    ids = sorted(classes)
    # Copies for the libraries to write in; beside a mask a box would give the area.
    keys = ("image_id", "category_id", "score", FIELDS[iou_type])
    rows = [{key: result[key] for key in keys} for result in results]
    if lvis:
        rows = keep_known(ground_truth, keep_best(rows, limit))
    precision = interpolated_precision(library, ground_truth, rows, iou_type, ids, limit, lvis=lvis)
    frequency = {category["id"]: category["frequency"] for category in categories if lvis}
    frequencies = [frequency[identity] for identity in ids] if lvis else None
    return _summarize(precision, [classes[identity] for identity in ids], frequencies)


def choose_max_dets(given: int | None, rules: Rules, name: str) -> int:
    """The limit that was given under a name, or that of the rules.

    Raises:
        UserError: it is out of range.
    """
    if given is None:
        return MAX_DETS[rules]
    if type(given) is not int or not 1 <= given <= MOST_DETS:
        raise UserError(f"{name} must be an integer from 1 to {MOST_DETS:,}, got {given!r}")
    return given


def class_precision(metrics: Mapping[str, Any], classes: Sequence[str]) -> dict[str, float]:
    """AP by class, from metrics such as :func:`average_precision` or Detectron2 gives.

    Args:
        metrics: with an ``AP-<class>`` of each class, or the ``AP`` of the only one.
        classes: their names.

    Returns:
        In percent, NaN for those that the metrics have not; empty if they have none of them.
    """
    if len(classes) == 1 and "AP" in metrics:  # which is not repeated as that of the class
        return {classes[0]: metrics["AP"]}
    values = {name: metrics[f"AP-{name}"] for name in classes if f"AP-{name}" in metrics}
    return {name: values.get(name, math.nan) for name in classes} if values else {}


def keep_best(results: Iterable[Result], max_dets: int) -> list[Result]:
    """The results of highest score of each image, over all classes, as lvis-api cuts them.

    Of equal scores the first ones stay. faster-coco-eval would cut each class by itself.
    """
    of_image: dict[int, list[Result]] = defaultdict(list)
    for result in results:
        of_image[result["image_id"]].append(result)
    best: list[Result] = []
    for rows in of_image.values():
        # In the order of the file, unless some are left out.
        if len(rows) > max_dets:
            rows = sorted(rows, key=lambda result: result["score"], reverse=True)[:max_dets]
        best += rows
    return best


def keep_known(ground_truth: Mapping[str, Any], results: Iterable[Result]) -> list[Result]:
    """The results of classes that are annotated in their image, as present or as absent.

    faster-coco-eval leaves out the others too, but fails on masks of an image that has only such.
    """
    known = {(a["image_id"], a["category_id"]) for a in ground_truth["annotations"]}
    for image in ground_truth["images"]:
        known.update((image["id"], identity) for identity in image["neg_category_ids"])
    return [result for result in results if (result["image_id"], result["category_id"]) in known]


def _summarize(
    precision: np.ndarray, names: Sequence[str], frequencies: Sequence[str] | None
) -> dict[str, float]:
    """Over all classes, by area, by frequency if it is known, and of each of several classes.

    Args:
        precision: (T, R, K, A).
        names: of the K classes.
        frequencies: of the K classes, by LVIS's rules.
    """
    anywhere = precision[..., 0]
    metrics = {"AP": anywhere, "AP50": anywhere[0], "AP75": anywhere[5]}
    metrics |= {f"AP{area}": precision[..., i] for i, area in enumerate("sml", start=1)}
    if frequencies is not None:
        of_class = np.array(frequencies)
        metrics |= {f"AP{group}": anywhere[:, :, of_class == group] for group in "rcf"}
    if len(names) > 1:
        metrics |= {f"AP-{name}": anywhere[..., k] for k, name in enumerate(names)}
    return {name: _percent(values) for name, values in metrics.items()}


def precision_cell(value: float) -> str:
    """An AP in a table, with three decimals; empty for NaN, a class without an object."""
    return "" if math.isnan(value) else f"{value:.3f}"


def _percent(precision: np.ndarray) -> float:
    """The mean over what is defined."""
    defined = precision[precision > -1]
    return 100 * float(defined.mean()) if defined.size else math.nan
