"""AP and oLRP of detections by COCO's or LVIS's rules."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from ranking_det.data.coco_json.rules import LVIS_LISTS, MAX_ID
from ranking_det.evaluation.libraries import Library, check_library, evaluate
from ranking_det.evaluation.lrp import summarize as summarize_lrp
from ranking_det.evaluation.matching import Detections, collect_detections
from ranking_det.user_errors import UserError

__all__ = ["MAX_DETS", "average_precision", "detection_metrics"]

Rules = Literal["coco", "lvis"]

MAX_DETS: dict[Rules, int] = {"coco": 100, "lvis": 300}
"""Maximum number of detections per image: of each class for COCO, of all classes for LVIS."""

MOST_DETS = 1_000_000
"""The largest maximum that the libraries accept."""

COLUMNS = ("AP", "oLRP", "threshold")
"""Metrics of a class: AP and oLRP in percent, and the score at which the LRP error is smallest."""

FIELDS = {"bbox": "bbox", "segm": "segmentation"}
"""The field that results must have, by IoU type."""

Result = dict[str, Any]


def detection_metrics(
    ground_truth: dict[str, Any],
    results: Iterable[Mapping[str, Any]],
    iou_type: str,
    *,
    rules: Rules = "coco",
    library: Library = "faster-coco-eval",
    max_dets: int | None = None,
    classes: Mapping[int, str] | None = None,
) -> dict[str, float]:
    """Compute AP and oLRP from one matching of the detections.

    AP is the mean precision over IoU .50 to .95, 101 recalls, and classes. COCO's rules are those
    of pycocotools (https://cocodataset.org/#detection-eval), LVIS's those of lvis-api. LVIS's
    annotation is federated (A. Gupta, P. Dollár, R. Girshick: LVIS, CVPR 2019, section 2). A
    detection can be a false positive only if its class is among the objects of the image or in its
    ``neg_category_ids``. An unmatched detection is ignored if its class is in
    ``not_exhaustive_category_ids``.

    As in Detectron2, the area of a detection with a mask is the mask's area, even if the result
    also has a box. AP is 0 where there are objects but no detections, for one class or for all.
    Unlike lvis-api, this function also treats an annotation with ``iscrowd`` as a crowd by LVIS's
    rules; LVIS itself has no crowds.

    oLRP is the smallest LRP error over all score thresholds, at IoU .5
    (:mod:`ranking_det.evaluation.lrp`); smaller is better.

    Args:
        ground_truth: the content of an annotation file, as
            :func:`ranking_det.evaluation.ground_truth.complete_for_evaluation` returns it.
        results: the content of a result file: ``image_id``, ``category_id``, ``score``, and
            ``bbox`` (x, y, width, height in pixels) or ``segmentation`` (compressed RLE). They are
            not modified.
        iou_type: "bbox" or "segm".
        rules: "coco" or "lvis".
        library: the library that matches detections with objects. "pycocotools" agrees with
            "faster-coco-eval", is slower, and supports only COCO's rules.
        max_dets: maximum number of detections, 1 to :data:`MOST_DETS`; default :data:`MAX_DETS`.
        classes: the names of the classes to evaluate by category id; default: all in the file.

    Returns:
        AP, AP50, AP75, APs, APm and APl, in percent. LVIS also has APr, APc and APf. With more than
        one class there is also an ``AP-<class>`` for each. Values are NaN where there are no
        objects. Then the numbers of :func:`ranking_det.evaluation.lrp.summarize`: oLRP, oLRPLoc,
        oLRPFP, oLRPFN, oLRPs, oLRPm and oLRPl, in percent, ``oLRP-<class>`` and
        ``threshold-<class>``.

    Raises:
        UserError: the library is not installed or does not support the rules, or ``max_dets`` is
            out of range.
    """
    evaluation = evaluate_detections(
        ground_truth,
        results,
        iou_type,
        rules=rules,
        library=library,
        max_dets=max_dets,
        classes=classes,
    )
    return evaluation_metrics(evaluation)


def evaluation_metrics(evaluation: DetectionEvaluation) -> dict[str, float]:
    """Compute AP and oLRP from an evaluation.

    Args:
        evaluation: what :func:`evaluate_detections` returned.

    Returns:
        The metrics of :func:`detection_metrics`.
    """
    return _summarize(evaluation) | summarize_lrp(evaluation.detections, evaluation.names)


def average_precision(
    ground_truth: dict[str, Any],
    results: Iterable[Mapping[str, Any]],
    iou_type: str,
    **options: Any,
) -> dict[str, float]:
    """Compute AP in percent; see :func:`detection_metrics`.

    Args:
        ground_truth: the content of an annotation file, complete for evaluation.
        results: the content of a result file.
        iou_type: "bbox" or "segm".
        **options: options of :func:`detection_metrics`.

    Returns:
        Its metrics that start with AP.
    """
    return _summarize(evaluate_detections(ground_truth, results, iou_type, **options))


class DetectionEvaluation(NamedTuple):
    """What the metrics of a result file are computed from.

    Attributes:
        precision: (T, R, K, A) interpolated precision in [0, 1]; -1 where there are no objects. See
            :mod:`ranking_det.evaluation.libraries`.
        detections: the detections that the rules count, with the objects that they overlap.
        names: names of the K classes.
        frequencies: LVIS's frequencies of the K classes, "r", "c" or "f"; None by COCO's rules.
    """

    precision: np.ndarray
    detections: Detections
    names: list[str]
    frequencies: list[str] | None


def evaluate_detections(
    ground_truth: dict[str, Any],
    results: Iterable[Mapping[str, Any]],
    iou_type: str,
    *,
    rules: Rules = "coco",
    library: Library = "faster-coco-eval",
    max_dets: int | None = None,
    classes: Mapping[int, str] | None = None,
) -> DetectionEvaluation:
    """Compute the precision of detections, and find the objects that they overlap.

    Args:
        ground_truth: the content of an annotation file, complete for evaluation.
        results: the content of a result file.
        iou_type: "bbox" or "segm".
        rules: "coco" or "lvis".
        library: the library that matches detections with objects.
        max_dets: maximum number of detections, as for :func:`detection_metrics`.
        classes: the names of the classes to evaluate by category id; default: all in the file.

    Returns:
        The precision and the detections.

    Raises:
        UserError: the library is not installed or does not support the rules, or ``max_dets`` is
            out of range.
    """
    lvis = rules == "lvis"
    check_library(library, lvis=lvis)
    limit = choose_max_dets(max_dets, rules, "max_dets")
    if classes is None:
        classes = {category["id"]: category["name"] for category in ground_truth["categories"]}
    ground_truth, results, classes = with_exact_ids(ground_truth, results, classes)
    categories = ground_truth["categories"]
    ids = sorted(classes)
    # Copy, because the libraries modify them. If there is a mask, leave out the box: the libraries
    # would compute the area from it.
    field = FIELDS[iou_type]
    rows = [
        {
            "image_id": result["image_id"],
            "category_id": result["category_id"],
            "score": result["score"],
            field: result[field],
            "position": position,
        }
        for position, result in enumerate(results)
    ]
    if lvis:
        rows = keep_annotated_classes(ground_truth, keep_best(rows, limit))
    evaluation = evaluate(library, ground_truth, rows, iou_type, ids, limit, lvis=lvis)
    frequency = {category["id"]: category["frequency"] for category in categories if lvis}
    frequencies = [frequency[identity] for identity in ids] if lvis else None
    detections = collect_detections(
        ground_truth, rows, evaluation.ious, ids, iou_type=iou_type, max_dets=limit, lvis=lvis
    )
    position = np.array([row["position"] for row in rows], np.int64)
    detections = detections._replace(result=position[detections.result])
    names = [classes[identity] for identity in ids]
    return DetectionEvaluation(evaluation.precision, detections, names, frequencies)


def with_exact_ids(
    ground_truth: dict[str, Any], results: Iterable[Mapping[str, Any]], classes: Mapping[Any, str]
) -> tuple[dict[str, Any], Iterable[Mapping[str, Any]], dict[Any, str]]:
    """Number images and categories if an id is text, or too large for the floats of the libraries.

    Args:
        ground_truth: the content of an annotation file.
        results: the content of a result file.
        classes: the names of the classes by category id.

    Returns:
        The three arguments, unchanged or with numbers from 1 instead of ids, in the order of the
        file.
    """
    images, categories = ground_truth["images"], ground_truth["categories"]
    number_of = _exact_numbers(images)
    if number_of is not None:
        images = [{**image, "id": number_of[image["id"]]} for image in images]
        ground_truth = _renumber(ground_truth, "image_id", number_of) | {"images": images}
        results = [{**result, "image_id": number_of[result["image_id"]]} for result in results]
    number_of = _exact_numbers(categories)
    if number_of is not None:
        categories = [{**category, "id": number_of[category["id"]]} for category in categories]
        images = [
            {
                **image,
                **{key: [number_of.get(i, i) for i in image.get(key) or ()] for key in LVIS_LISTS},
            }
            for image in ground_truth["images"]
        ]
        ground_truth = _renumber(ground_truth, "category_id", number_of)
        ground_truth |= {"categories": categories, "images": images}
        results = [
            {**result, "category_id": number_of[result["category_id"]]} for result in results
        ]
        classes = {number_of[identity]: name for identity, name in classes.items()}
    return ground_truth, results, dict(classes)


def _exact_numbers(entries: Sequence[Mapping[str, Any]]) -> dict[Any, int] | None:
    """Return a number from 1 by id; None if all ids are exact."""
    ids = [entry["id"] for entry in entries]
    if all(type(identity) is int and abs(identity) < MAX_ID for identity in ids):
        return None
    return {identity: number for number, identity in enumerate(ids, start=1)}


def _renumber(content: dict[str, Any], key: str, number_of: Mapping[Any, int]) -> dict[str, Any]:
    annotations = [{**a, key: number_of[a[key]]} for a in content["annotations"]]
    return {**content, "annotations": annotations}


def choose_max_dets(max_dets: int | None, rules: Rules, name: str) -> int:
    """Return the maximum number of detections per image: the chosen one, or the rules' default.

    Args:
        max_dets: the number, 1 to :data:`MOST_DETS`; None for the default of the rules.
        rules: "coco" or "lvis".
        name: the name of the argument or flag in messages.

    Returns:
        The number.

    Raises:
        UserError: the number is out of range.
    """
    if max_dets is None:
        return MAX_DETS[rules]
    if type(max_dets) is not int or not 1 <= max_dets <= MOST_DETS:
        raise UserError(f"{name}: expected an integer from 1 to {MOST_DETS:,}, got {max_dets!r}")
    return max_dets


def overall(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics without those of single classes.

    Args:
        metrics: the metrics of :func:`detection_metrics`.
    """
    return {name: value for name, value in metrics.items() if "-" not in name}


def per_class(
    metrics: Mapping[str, Any], classes: Sequence[str], name: str = "AP"
) -> dict[str, float]:
    """Extract a metric of each class from the metrics of :func:`detection_metrics` or Detectron2.

    Args:
        metrics: metrics with a ``<name>-<class>`` for each class, or the ``<name>`` of a single
            class.
        classes: the names of the classes.
        name: "AP", "oLRP" or "threshold".

    Returns:
        The value by class, NaN for classes that the metrics lack; empty if they lack all.
    """
    if len(classes) == 1 and name in metrics:  # the metrics do not repeat it as AP-<class>
        return {classes[0]: metrics[name]}
    keys = {label: f"{name}-{label}" for label in classes}
    values = {label: metrics[key] for label, key in keys.items() if key in metrics}
    return {label: values.get(label, math.nan) for label in classes} if values else {}


def keep_best(results: Iterable[Result], max_dets: int) -> list[Result]:
    """Keep the highest-scored results of each image, over all classes, as in lvis-api.

    Among equal scores, the first ones are kept. faster-coco-eval would limit each class separately.

    Args:
        results: the content of a result file.
        max_dets: maximum number of results per image, >= 1.

    Returns:
        The results, grouped by image.
    """
    results_of_image: dict[int, list[Result]] = defaultdict(list)
    for result in results:
        results_of_image[result["image_id"]].append(result)
    best: list[Result] = []
    for rows in results_of_image.values():
        # The rows stay in the order of the file unless some are dropped.
        if len(rows) > max_dets:
            rows = sorted(rows, key=lambda result: result["score"], reverse=True)[:max_dets]
        best += rows
    return best


def keep_annotated_classes(
    ground_truth: Mapping[str, Any], results: Iterable[Result]
) -> list[Result]:
    """Keep the results whose class LVIS annotates in their image, as present or absent.

    faster-coco-eval also ignores other results, but fails on an image with only ignored masks.

    Args:
        ground_truth: the content of an LVIS annotation file.
        results: the content of a result file.

    Returns:
        The results, in their order.
    """
    pairs = {(a["image_id"], a["category_id"]) for a in ground_truth["annotations"]}
    for image in ground_truth["images"]:
        pairs.update((image["id"], identity) for identity in image["neg_category_ids"])
    return [result for result in results if (result["image_id"], result["category_id"]) in pairs]


def _summarize(evaluation: DetectionEvaluation) -> dict[str, float]:
    """Average the precision over all classes, by area, by LVIS's frequency, and by class."""
    precision, _, names, frequencies = evaluation
    all_areas = precision[..., 0]
    metrics = {"AP": all_areas, "AP50": all_areas[0], "AP75": all_areas[5]}
    metrics |= {f"AP{area}": precision[..., i] for i, area in enumerate("sml", start=1)}
    if frequencies is not None:
        class_frequencies = np.array(frequencies)
        metrics |= {f"AP{group}": all_areas[:, :, class_frequencies == group] for group in "rcf"}
    if len(names) > 1:
        metrics |= {f"AP-{name}": all_areas[..., k] for k, name in enumerate(names)}
    return {name: _percent(values) for name, values in metrics.items()}


def per_class_rows(
    tasks: Mapping[str, Mapping[str, Any]], classes: Sequence[str]
) -> list[dict[str, str]]:
    """Return a row per class for a table of :data:`COLUMNS`, with three decimals.

    Args:
        tasks: metrics as for :func:`per_class`, by the start of their columns, such as "bbox_".
        classes: the names of the classes.

    Returns:
        For each class its name as ``class``, and a cell for each metric that the task has, which is
        empty where the metric is undefined.
    """
    columns = {
        f"{start}{name}": values
        for name in COLUMNS
        for start, metrics in tasks.items()
        if (values := per_class(metrics, classes, name))
    }
    return [
        {"class": label} | {column: _cell(values[label]) for column, values in columns.items()}
        for label in classes
    ]


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _percent(precision: np.ndarray) -> float:
    """Return the mean in percent over the defined entries, NaN if there are none."""
    defined = precision[precision > -1]
    return 100 * float(defined.mean()) if defined.size else math.nan
