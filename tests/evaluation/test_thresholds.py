"""Thresholds equal hand-computed values and loops over all candidates."""

import copy
import math

import numpy as np
import pytest

from ranking_det.evaluation import average_precision, detection_metrics
from ranking_det.evaluation.matching import match
from ranking_det.evaluation.metrics import evaluate_detections
from ranking_det.evaluation.precision_recall import precision_recall_curve
from ranking_det.evaluation.thresholds import (
    ThresholdSweep,
    fit_thresholds,
    precision_threshold,
)
from tests.evaluation.cases import A, B, C, ground_truth, prepare, random_set, result

BOX, FAR = [10, 10, 40, 40], [100, 100, 60, 60]


def detections_of(content, results, rules="coco"):
    return evaluate_detections(copy.deepcopy(content), results, "bbox", rules=rules).detections


def test_the_lowest_threshold_that_reaches_the_precision_may_lie_below_one_that_does_not():
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    true = np.array([True, False, True, True, False])  # 1, 1/2, 2/3, 3/4, 3/5
    curve = precision_recall_curve(scores, true, 3)
    assert precision_threshold(curve, 0.75) == 0.6
    assert precision_threshold(curve, 0.8) == 0.9
    assert math.isnan(precision_threshold(precision_recall_curve(scores, ~true, 3), 0.75))
    tied = precision_recall_curve(np.array([0.9, 0.9]), np.array([True, False]), 1)
    assert math.isnan(precision_threshold(tied, 0.75))


def test_thresholds_equal_loops_over_all_scores():
    detections = detections_of(prepare(random_set(1)[0], "coco"), random_set(1)[1])
    matches = match(detections)
    thresholds, without = fit_thresholds(detections, matches, 0.3)
    assert without == [3]
    keys = [detections.label == k for k in range(3)] + [np.ones(len(detections.label), bool)]
    for k, among in enumerate(keys):
        number = matches.num_objects[k] if k < 3 else matches.num_objects.sum()
        best_f1, best, lowest = 0, None, None
        for score in np.unique(detections.score[among & ~matches.ignored])[::-1]:
            rows = among & ~matches.ignored & (detections.score >= score)
            true = (matches.iou[rows] > 0).sum()
            f1 = 2 * true / (rows.sum() + number)
            if f1 > best_f1:
                best_f1, best = f1, score
            if rows.any() and true / rows.sum() >= 0.3:
                lowest = score
        for kind, expected in (("f1", best), ("precision", lowest)):
            values = thresholds[kind]
            assert (values.classes[k] if k < 3 else values.overall) == expected
    assert thresholds["f1"].classes[3] == thresholds["f1"].overall


def test_the_lrp_threshold_of_a_class_is_that_of_the_evaluation():
    content, results = random_set(1)
    content = prepare(content, "coco")
    metrics = detection_metrics(copy.deepcopy(content), results, "bbox")
    detections = detections_of(content, results)
    thresholds, _ = fit_thresholds(detections, match(detections))
    for k, name in enumerate(("rare", "common", "frequent")):
        assert thresholds["lrp"].classes[k] == metrics[f"threshold-{name}"]


def test_a_class_without_a_true_positive_takes_the_overall_thresholds():
    content = prepare(ground_truth((1, A, BOX), (1, B, BOX)), "coco")
    rows = [result(1, A, BOX, 0.7), result(1, B, FAR, 0.8), result(2, C, BOX, 0.6)]
    detections = detections_of(content, rows)
    thresholds, without = fit_thresholds(detections, match(detections), 1.0)
    assert without == [1, 2, 3]
    # The false positive of class B has the highest score, so no precision of 1 over all classes.
    assert thresholds["lrp"].classes == [0.7] * 4 and thresholds["f1"].overall == 0.7
    assert thresholds["precision"].classes[0] == 0.7
    assert all(map(math.isnan, thresholds["precision"].classes[1:]))


@pytest.mark.parametrize("rules", ["coco", "lvis"])
def test_a_sweep_equals_an_evaluation_of_the_detections_above_each_threshold(rules):
    content, results = random_set(6)
    content = prepare(content, rules)
    sweep = ThresholdSweep(detections_of(content, results, rules))
    for row in sweep.rows([0, 0.3, 0.5, 0.95, 2.0], 30):
        above = [r for r in results if r["score"] >= row["threshold"]]
        expected = average_precision(copy.deepcopy(content), above, "bbox", rules=rules)["AP"]
        assert row["AP"] == pytest.approx(expected, abs=1e-9)
        detections = detections_of(content, above, rules)
        matches = match(detections)
        assert row["detections"] == len(detections.score) / 30
        f1, lrp = [], []
        for k in np.flatnonzero(matches.num_objects):
            ious = matches.iou[(detections.label == k) & ~matches.ignored]
            true, number = (ious > 0).sum(), matches.num_objects[k]
            f1.append(200 * true / (len(ious) + number))
            errors = ((1 - ious[ious > 0]) / 0.5).sum() + len(ious) - true + number - true
            lrp.append(100 * errors / (len(ious) + number - true))
        assert (row["F1"], row["LRP"]) == pytest.approx((np.mean(f1), np.mean(lrp)))


def test_the_largest_threshold_loses_at_most_the_given_ap():
    content, results = random_set(6)
    rng = np.random.default_rng(0)
    results = [{**r, "score": float(rng.random())} for r in results]
    sweep = ThresholdSweep(detections_of(prepare(content, "coco"), results))
    scores = np.unique(sweep.detections.score)
    for loss in (0.0, 0.1, 5.0):
        aps = np.array([sweep.average_precision(score) for score in scores])
        assert sweep.largest_threshold(loss) == scores[np.flatnonzero(aps >= aps[0] - loss)[-1]]
    assert sweep.largest_threshold(5.0) > sweep.largest_threshold(0.0) > scores[0]


def test_without_detections_or_objects_numbers_are_defined():
    empty = ThresholdSweep(detections_of(prepare(ground_truth((1, A, BOX)), "coco"), []))
    expected = {"threshold": 0.5, "AP": 0, "F1": 0, "LRP": 100, "detections": 0}
    assert empty.rows([0.5], 2) == [expected] and math.isnan(empty.largest_threshold())
    rows = [result(1, A, BOX, 0.7)]
    without = ThresholdSweep(detections_of(prepare(ground_truth(), "coco"), rows))
    assert math.isnan(without.rows([0.5], 2)[0]["AP"]) and math.isnan(without.largest_threshold())
