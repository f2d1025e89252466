"""The metrics of real files equal direct loops over their definitions.

No data set is part of this project. With COCO files of your own, run for example
``COCO_FILES=GROUND_TRUTH.json,BOX_RESULTS.json,MASK_RESULTS.json python -m pytest
tests/evaluation/test_result_files.py``; without them the tests are skipped. The loops take minutes
for more than a few hundred images.
"""

import json
import os

import pytest

from ranking_det.evaluation import detection_metrics
from ranking_det.evaluation.detection_analysis import analyze_detections
from ranking_det.evaluation.ground_truth import fill_masks
from ranking_det.evaluation.metrics import evaluate_detections
from tests.evaluation.analysis_by_loop import approx, check_analysis
from tests.evaluation.cases import prepare
from tests.evaluation.lrp_by_loop import metrics_by_loop

FILES = os.environ.get("COCO_FILES", "").split(",")
IOU_TYPES = ["bbox", "segm"]

pytestmark = pytest.mark.skipif(len(FILES) != 3, reason="COCO_FILES does not name three files")


@pytest.fixture(scope="module")
def content():
    with open(FILES[0], encoding="utf-8") as file:
        content = prepare(json.load(file), "coco")
    fill_masks(content)
    return content


@pytest.fixture(params=IOU_TYPES)
def iou_type(request):
    return request.param


@pytest.fixture
def results(iou_type):
    with open(FILES[1 + IOU_TYPES.index(iou_type)], encoding="utf-8") as file:
        return json.load(file)


def test_olrp_equals_loops(content, results, iou_type):
    names = {category["id"]: category["name"] for category in content["categories"]}
    metrics = detection_metrics(content, results, iou_type)
    expected = metrics_by_loop(content, results, iou_type, "coco", names)
    assert {name: metrics[name] for name in expected} == approx(expected)


def test_all_other_numbers_equal_loops(content, results, iou_type):
    evaluation = evaluate_detections(content, results, iou_type)
    numbers = analyze_detections(evaluation, content, results, iou_type, score_threshold=0.4)
    check_analysis(numbers, content, results, iou_type, "coco", 0.4)
