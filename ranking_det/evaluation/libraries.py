"""The two libraries that match detections with objects, behind one form of answer.

T = 10 thresholds of the IoU (.50, .55 to .95), R = 101 recalls (0, .01 to 1), K classes in the
order of their ids, A = 4 ranges of the area (all, up to 32 x 32, up to 96 x 96, above).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ranking_det.user_errors import UserError

Library = Literal["faster-coco-eval", "pycocotools"]

PAIRS = 500_000
"""Of an image and a class, matched at once: a million of them takes more than a GB, and LVIS's
19,809 images and 1,203 classes are 24 million."""


def check_library(library: Library, *, lvis: bool) -> None:
    """Raise UserError unless the library is installed and knows the rules."""
    modules = {"faster-coco-eval": "faster_coco_eval", "pycocotools": "pycocotools"}
    if library not in modules:
        raise UserError(f"library must be one of {', '.join(modules)}, got {library!r}")
    if lvis and library == "pycocotools":
        raise UserError("pycocotools has COCO's rules only; LVIS's need faster-coco-eval")
    if importlib.util.find_spec(modules[library]) is None:
        raise UserError(f"{library} is not installed: pip install {library}")


def interpolated_precision(
    library: Library,
    ground_truth: dict[str, Any],
    results: list[dict[str, Any]],
    iou_type: str,
    ids: Sequence[int],
    max_dets: int,
    *,
    lvis: bool,
) -> np.ndarray:
    """Interpolated precision by faster-coco-eval, or by pycocotools, COCO's own.

    Args:
        library: which; pycocotools has COCO's rules only.
        ground_truth: the content of an annotation file with all that COCO's evaluation needs. Its
            annotations get fields of the library's.
        results: of a result file, with "bbox" or "segmentation" and not both; they get fields too.
        iou_type: "bbox" or "segm".
        ids: K category ids, ascending.
        max_dets: detections of a class in an image, at most.
        lvis: whether the annotation is federated: a detection of a class that is neither among the
            objects nor in ``neg_category_ids`` of its image is left out, and one that is not
            matched is if the class is in ``not_exhaustive_category_ids``.

    Returns:
        (T, R, K, A) in [0, 1]; -1 where there is no object.
    """
    if library == "pycocotools":
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):
            truth = _index(ground_truth)
            # pycocotools does not read an empty list of results.
            empty = {**ground_truth, "annotations": []}
            detections = truth.loadRes(results) if results else _index(empty)
            return _accumulate(COCOeval(truth, detections, iou_type), ids, max_dets)
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(ground_truth)
    detections = truth.loadRes(results)
    step = max(1, PAIRS // max(1, len(ground_truth["images"])))
    parts = []
    for start in range(0, len(ids), step):
        evaluation = COCOeval_faster(truth, detections, iou_type, lvis_style=lvis)
        parts.append(_accumulate(evaluation, ids[start : start + step], max_dets))
    return np.concatenate(parts, axis=2)


def _index(content: dict[str, Any]) -> Any:
    from pycocotools.coco import COCO

    api = COCO()
    api.dataset = content
    api.createIndex()
    return api


def _accumulate(evaluation: Any, ids: Sequence[int], max_dets: int) -> np.ndarray:
    evaluation.params.catIds = list(ids)
    evaluation.params.maxDets = [max_dets]
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[..., 0]
