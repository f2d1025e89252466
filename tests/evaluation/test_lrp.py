"""oLRP equals hand-computed values and loops over its definition."""

import copy
import math

import numpy as np
import pytest

from ranking_det.evaluation import detection_metrics
from ranking_det.evaluation.ground_truth import fill_masks
from ranking_det.evaluation.lrp import optimal_lrp
from tests.evaluation.cases import NAMES, A, B, ground_truth, prepare, random_set, result
from tests.evaluation.lrp_by_loop import metrics_by_loop

BOX, SECOND_BOX, FAR = [10, 10, 40, 40], [100, 10, 40, 40], [100, 100, 60, 60]


def evaluate(content, results, iou_type="bbox", rules="coco", **options):
    content = prepare(copy.deepcopy(content), rules)
    fill_masks(content)
    metrics = detection_metrics(content, results, iou_type, rules=rules, **options)
    names = ("oLRP", "threshold")
    return {name: value for name, value in metrics.items() if name.startswith(names)}


def test_the_error_and_its_parts_are_those_of_the_best_prefix():
    # LRP of the prefixes: (.2/.5 + 2)/3, (.2/.5 + 1 + 2)/4, (.5/.5 + 1 + 1)/4, (.5/.5 + 2 + 1)/5.
    scores, ious = np.array([0.9, 0.8, 0.8, 0.1]), np.array([0.8, 0.0, 0.7, 0.0])
    lrp = optimal_lrp(scores, ious, 3)
    assert lrp == pytest.approx((0.75, 0.25, 1 / 3, 1 / 3, 0.8))
    assert optimal_lrp(scores[:1], ious[:1], 3) == pytest.approx((0.8, 0.2, 0, 2 / 3, 0.9))


def test_a_detection_of_an_equal_score_can_stay_below_the_threshold():
    lrp = optimal_lrp(np.array([0.5, 0.5]), np.array([1.0, 0.0]), 1)
    assert lrp == (0, 0, 0, 0, 0.5)


def test_undefined_numbers_are_nan():
    empty = np.zeros(0)
    assert np.isnan(optimal_lrp(empty, empty, 0)).all()
    assert np.isnan(optimal_lrp(np.ones(1), np.zeros(1), 0)).all()
    for scores in (empty, np.ones(2)):
        lrp = optimal_lrp(scores, np.zeros(len(scores)), 3)
        assert (lrp.error, lrp.false_negative) == (1, 1)
        assert np.isnan([lrp.localization, lrp.false_positive, lrp.threshold]).all()


def test_a_match_of_exactly_the_minimum_iou_has_a_threshold_although_its_error_is_one():
    lrp = optimal_lrp(np.array([0.9, 0.5]), np.array([0.0, 0.5]), 1)
    assert lrp == (1, 0.5, 0.5, 0, 0.5)


def test_classes_without_objects_do_not_count():
    content = ground_truth((1, A, BOX), (1, B, BOX), (1, B, SECOND_BOX))
    metrics = evaluate(content, [result(1, A, BOX, 0.9), result(1, B, BOX, 0.7)])
    assert metrics["oLRP"] == pytest.approx(25) and metrics["oLRPFN"] == pytest.approx(25)
    assert metrics["oLRPLoc"] == metrics["oLRPFP"] == 0
    assert (metrics["oLRP-rare"], metrics["oLRP-common"]) == (0, 50)
    assert (metrics["threshold-rare"], metrics["threshold-common"]) == (0.9, 0.7)
    assert all(math.isnan(metrics[f"{name}-absent"]) for name in ("oLRP", "threshold"))


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize(
    ("rules", "library"),
    [("coco", "faster-coco-eval"), ("coco", "pycocotools"), ("lvis", "faster-coco-eval")],
)
def test_olrp_equals_loops_over_its_definition(rules, library, iou_type):
    for seed in range(3):
        content, results = random_set(seed)
        expected = metrics_by_loop(content, results, iou_type, rules, NAMES)
        metrics = evaluate(content, results, iou_type, rules, library=library)
        assert metrics.keys() == expected.keys()
        for name, value in expected.items():
            assert metrics[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name


def test_the_maximum_number_of_detections_counts_for_each_class_of_an_image():
    content = ground_truth((1, A, BOX), (1, B, BOX))
    results = [result(1, A, FAR, 0.9), result(1, A, BOX, 0.8), result(1, B, BOX, 0.1)]
    assert evaluate(content, results)["oLRP-rare"] == pytest.approx(50)
    metrics = evaluate(content, results, max_dets=1)
    assert (metrics["oLRP-rare"], metrics["oLRP-common"]) == (100, 0)


def test_results_do_not_have_to_be_in_the_order_of_the_images():
    content, results = random_set(5, crowds=0)
    results = [{**entry, "score": 1 - i / 1000} for i, entry in enumerate(results)]
    expected = evaluate(content, results)
    assert evaluate(content, results[::-1]) == pytest.approx(expected, nan_ok=True)
