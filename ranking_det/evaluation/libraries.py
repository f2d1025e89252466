"""Run COCO or LVIS evaluation with faster-coco-eval or pycocotools: precision and IoUs.

T = 10 IoU thresholds (.50, .55 to .95), R = 101 recalls (0, .01 to 1), K classes in the order of
their ids, A = 4 ranges of the area in square pixels (all, up to 32 x 32, up to 96 x 96, above), as
in https://cocodataset.org/#detection-eval.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from ranking_det.user_errors import UserError

Library = Literal["faster-coco-eval", "pycocotools"]
LIBRARIES: tuple[Library, ...] = get_args(Library)

PAIRS = 500_000
"""Maximum number of (image, class) pairs in one call of faster-coco-eval. A million pairs take more
than 1 GB, and LVIS has 24 million: 19,809 images x 1,203 classes."""


class Evaluation(NamedTuple):
    """What a library computes from ground truth and results.

    Attributes:
        precision: (T, R, K, A) interpolated precision in [0, 1]; -1 where there are no objects.
        ious: maps (image id, category id) to the (D, G) IoUs between the detections, in descending
            order of score, and the objects. Pairs without detections or objects have no entry.
    """

    precision: np.ndarray
    ious: dict[tuple[Any, Any], np.ndarray]


def check_library(library: Library, *, lvis: bool) -> None:
    """Check that an evaluation library is installed and supports COCO's or LVIS's rules.

    Args:
        library: "faster-coco-eval" or "pycocotools".
        lvis: whether LVIS's rules are needed.

    Raises:
        UserError: the library is unknown or not installed, or does not support LVIS's rules.
    """
    if library not in LIBRARIES:
        raise UserError(f"library: expected one of {', '.join(LIBRARIES)}, got {library!r}")
    if lvis and library == "pycocotools":
        raise UserError(
            "pycocotools supports only COCO's rules; LVIS's rules need faster-coco-eval"
        )
    if importlib.util.find_spec(library.replace("-", "_")) is None:
        raise UserError(f"{library} is not installed: pip install {library}")


def evaluate(
    library: Library,
    ground_truth: dict[str, Any],
    results: list[dict[str, Any]],
    iou_type: str,
    ids: Sequence[int],
    max_dets: int,
    *,
    lvis: bool,
) -> Evaluation:
    """Compute the IoUs and the interpolated precision by COCO's or LVIS's rules.

    The precision at a recall r is the highest precision at any recall >= r
    (https://cocodataset.org/#detection-eval; ``COCOeval.accumulate`` in pycocotools).

    Args:
        library: "faster-coco-eval", or COCO's own "pycocotools", which supports only COCO's rules.
        ground_truth: the content of an annotation file, with all fields that COCO's evaluation
            needs. The library adds fields to its annotations.
        results: the content of a result file, with either "bbox" or "segmentation". The library
            adds fields to them.
        iou_type: "bbox" or "segm".
        ids: K category ids, ascending.
        max_dets: maximum number of detections of a class per image, >= 1.
        lvis: whether the data set is federated, as LVIS is (A. Gupta, P. Dollár, R. Girshick: LVIS,
            CVPR 2019, section 2). Then a detection is ignored if its class is neither annotated in
            the image nor in the image's ``neg_category_ids``, or if it is unmatched and its class
            is in the image's ``not_exhaustive_category_ids``.

    Returns:
        The precision and the IoUs.
    """
    ious: dict[tuple[Any, Any], np.ndarray] = {}
    if library == "pycocotools":
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):
            truth = _index(ground_truth)
            # pycocotools cannot read an empty list of results.
            empty = {**ground_truth, "annotations": []}
            detections = truth.loadRes(results) if results else _index(empty)
            evaluation = COCOeval(truth, detections, iou_type)
            return Evaluation(_accumulate(evaluation, ids, max_dets, ious), ious)
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(ground_truth)
    detections = truth.loadRes(results)
    step = max(1, PAIRS // max(1, len(ground_truth["images"])))
    parts = []
    for start in range(0, len(ids), step):
        evaluation = COCOeval_faster(truth, detections, iou_type, lvis_style=lvis)
        parts.append(_accumulate(evaluation, ids[start : start + step], max_dets, ious))
    return Evaluation(np.concatenate(parts, axis=2), ious)


def _index(content: dict[str, Any]) -> Any:
    from pycocotools.coco import COCO

    api = COCO()
    api.dataset = content
    api.createIndex()
    return api


def _accumulate(
    evaluation: Any, ids: Sequence[int], max_dets: int, ious: dict[tuple[Any, Any], np.ndarray]
) -> np.ndarray:
    """Return the precision; add the IoUs of all pairs of image and class that have any."""
    evaluation.params.catIds = list(ids)
    evaluation.params.maxDets = [max_dets]
    evaluation.evaluate()
    evaluation.accumulate()
    ious.update((pair, values) for pair, values in evaluation.ious.items() if len(values))
    return np.asarray(evaluation.eval["precision"])[..., 0]
