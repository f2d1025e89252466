"""Calibration errors equal hand-computed values and loops; calibrators keep the order of scores."""

import copy
import math

import numpy as np
import pytest

from ranking_det.evaluation import average_precision
from ranking_det.evaluation.calibration import (
    MIN_DETECTIONS,
    Calibrator,
    calibrate,
    calibration_errors,
    fit_calibrators,
    reliability,
)
from ranking_det.evaluation.matching import match
from ranking_det.evaluation.metrics import evaluate_detections
from tests.evaluation.cases import NAMES, A, B, ground_truth, prepare, random_set, result

BOX, FAR = [10, 10, 40, 40], [100, 100, 60, 60]
PLATEAU = Calibrator(np.array([0.0, 1.0]), np.array([0.25, 0.25]))


def detections_of(content, results, rules="coco"):
    content = prepare(copy.deepcopy(content), rules)
    return evaluate_detections(content, results, "bbox", rules=rules).detections


def test_the_error_is_the_mean_gap_of_the_bins_weighted_by_their_detections():
    diagram = reliability(np.array([0.9, 0.9, 0.2]), np.array([1.0, 0.0, 1.0]), 2)
    assert diagram.count.tolist() == [1, 2]
    assert diagram.score.tolist() == [0.2, 0.9] and diagram.target.tolist() == [1, 0.5]
    assert diagram.error == pytest.approx(2 / 3 * 0.4 + 1 / 3 * 0.8)
    diagram = reliability(np.array([0.8, 0.6]), np.array([0.9, 0.0]), 2)
    assert diagram.error == pytest.approx(0.25)


def test_scores_on_the_edges_of_bins_and_outside_of_them_are_counted():
    diagram = reliability(np.array([-0.1, 0.0, 0.5, 1.0, 1.1]), np.zeros(5), 2)
    assert diagram.count.tolist() == [2, 3]
    empty = reliability(np.zeros(0), np.zeros(0), 2)
    assert math.isnan(empty.error) and np.isnan(empty.score).all()


def test_laace_is_the_mean_gap_of_the_detections():
    content = ground_truth((1, A, [10, 10, 40, 40]))
    rows = [result(1, A, [10, 10, 40, 36], 0.8), result(1, A, FAR, 0.6)]  # IoU .9
    detections = detections_of(content, rows)
    errors = calibration_errors(detections, np.ones(2, bool), num_bins=2)
    assert errors.classes[0]["LaACE_0"] == pytest.approx(35)
    assert errors.classes[0]["LaECE_0"] == errors.overall["LaECE"] == pytest.approx(25)
    assert errors.classes[0]["D-ECE"] == errors.overall["D-ECE"] == pytest.approx(20)
    assert all(math.isnan(value) for value in errors.classes[1].values())


def errors_by_loop(detections, selected, tau, min_score, num_bins):
    """Return the errors of each class, and D-ECE of all, by loops over bins and detections."""
    at_tau, at_zero = match(detections, min_iou=tau), match(detections, min_iou=0)
    rows = {"all": []} | {k: [] for k in range(detections.num_classes)}
    for i, score in enumerate(detections.score.tolist()):
        row = score, at_tau.iou[i], at_zero.iou[i], at_tau.ignored[i], at_zero.ignored[i]
        for key in ("all", int(detections.label[i])):
            rows[key].append((*row, selected[i]))

    def of_bins(pairs):
        total = 0.0
        for number in range(num_bins):
            inside = [p for p in pairs if min(int(p[0] * num_bins), num_bins - 1) == number]
            if inside:
                gap = sum(p[0] for p in inside) - sum(p[1] for p in inside)
                total += abs(gap) / len(pairs)
        return 100 * total if pairs else math.nan

    numbers = {}
    for key, entries in rows.items():
        confident = [(s, float(iou > 0)) for s, iou, _, out, *_ in entries if s >= min_score > out]
        above = [(s, iou) for s, iou, _, out, _, use in entries if use and not out]
        loose = [(s, iou) for s, _, iou, _, out, use in entries if use and not out]
        gaps = [100 * abs(s - iou) for s, iou in loose]
        numbers[key] = {
            "D-ECE": of_bins(confident),
            "LaECE": of_bins(above),
            "LaECE_0": of_bins(loose),
            "LaACE_0": np.mean(gaps) if gaps else math.nan,
        }
    return numbers


@pytest.mark.parametrize("rules", ["coco", "lvis"])
def test_errors_equal_loops_over_their_definitions(rules):
    detections = detections_of(*random_set(3), rules)
    selected = detections.score >= 0.4
    options = {"tau": 0.6, "min_score": 0.2, "num_bins": 7}
    errors = calibration_errors(detections, selected, **options)
    expected = errors_by_loop(detections, selected, *options.values())
    for label, numbers in enumerate(errors.classes):
        assert numbers == pytest.approx(expected[label], nan_ok=True)
    assert errors.overall["D-ECE"] == pytest.approx(expected["all"]["D-ECE"])
    assert errors.iou.error * 100 == pytest.approx(expected["all"]["LaECE_0"])
    for name in ("LaECE", "LaECE_0", "LaACE_0"):
        values = [expected[label][name] for label in range(len(NAMES))]
        assert errors.overall[name] == pytest.approx(np.nanmean(values))
    of_classes = [expected[label]["D-ECE"] for label in range(len(NAMES))]
    assert errors.overall["D-ECE of classes"] == pytest.approx(np.nanmean(of_classes))


def test_without_detections_all_errors_are_nan():
    detections = detections_of(ground_truth((1, A, BOX)), [])
    errors = calibration_errors(detections, np.zeros(0, bool))
    assert all(math.isnan(value) for value in errors.overall.values())
    assert not errors.precision.count.any()


def test_close_scores_stay_different_and_equal_ones_equal():
    close = [1e-300, 2e-300, 0.5, math.nextafter(0.5, 1), math.nextafter(1, 0), 1.0, 1.0]
    calibrated = calibrate(np.array(close), np.zeros(len(close), np.int64), [PLATEAU])
    assert (np.diff(calibrated[:-1]) > 0).all() and calibrated[-1] == calibrated[-2]
    assert np.abs(calibrated - 0.25).max() < 1e-6


def test_each_class_has_its_calibrator():
    rising = Calibrator(np.array([0.2, 0.6]), np.array([0.0, 1.0]))
    calibrated = calibrate(np.array([0.4, 0.4, 0.1]), np.array([1, 0, 1]), [PLATEAU, rising])
    assert calibrated == pytest.approx([0.5, 0.25, 0], abs=1e-6)


@pytest.mark.parametrize(("rules", "library"), [("coco", "pycocotools"), ("lvis", None)])
@pytest.mark.parametrize("calibrator", [PLATEAU, "isotonic", "linear"])
def test_average_precision_of_each_class_does_not_change(rules, library, calibrator):
    content, results = random_set(4)
    # Also differences that a float64 near the plateau cannot resolve by 1e-6 of the score.
    results = [{**r, "score": r["score"] + i % 7 * 1e-13} for i, r in enumerate(results)]
    content = prepare(content, rules)
    options = {"rules": rules} | ({"library": library} if library else {})
    detections = evaluate_detections(content, results, "bbox", **options).detections
    calibrators = [calibrator] * 4
    if isinstance(calibrator, str):
        fitted = fit_calibrators(detections, method=calibrator)
        calibrators = [each or fitted.pooled for each in fitted.classes]
    labels = {identity: label for label, identity in enumerate(sorted(NAMES))}
    scores = np.array([row["score"] for row in results])
    labels = np.array([labels[row["category_id"]] for row in results])
    calibrated = calibrate(scores, labels, calibrators)
    assert np.unique(calibrated[labels == 0]).size == np.unique(scores[labels == 0]).size
    after = [{**r, "score": s} for r, s in zip(results, calibrated.tolist(), strict=True)]
    before, after = (
        average_precision(copy.deepcopy(content), rows, "bbox", **options)
        for rows in (results, after)
    )
    assert after == pytest.approx(before, abs=1e-9, nan_ok=True)


def test_calibrators_give_the_mean_iou_and_the_precision_of_a_score():
    content = ground_truth((1, A, BOX), (2, A, FAR), images=60)
    rows = [result(1, A, [10, 10, 40, 36], 0.8)]
    rows += [result(i, A, [0, 0, 5, 5], 0.1) for i in range(3, 3 + MIN_DETECTIONS)]
    detections = detections_of(content, rows)
    for target, value in (("iou", 0.9), ("tp", 1.0)):
        fitted = fit_calibrators(detections, target)
        assert fitted.classes[0].map(np.array([0.8, 0.1])) == pytest.approx([value, 0], abs=2e-6)
        line = fit_calibrators(detections, target, "linear").classes[0]
        assert line.map(np.array([0.8, 0.1, 1.0])) == pytest.approx([value, 0, 1], abs=2e-6)


def test_a_match_below_an_iou_of_a_half_is_worth_its_iou_but_is_a_false_positive():
    rows = [result(1, A, [10, 10, 40, 12], 0.8)]  # IoU .3
    detections = detections_of(ground_truth((1, A, BOX)), rows)
    for target, value in (("iou", 0.3), ("tp", 0.0)):
        pooled = fit_calibrators(detections, target).pooled
        assert pooled.map(np.array([0.8])) == pytest.approx([value], abs=1e-6)


def test_ignored_detections_are_not_fitted():
    content = ground_truth((1, A, FAR, {"iscrowd": 1}), (2, A, BOX))
    rows = [result(1, A, FAR, 0.8), result(2, A, BOX, 0.8)]
    assert fit_calibrators(detections_of(content, rows)).pooled.values.tolist() == [1.0]


def test_a_class_with_few_detections_uses_the_calibrator_of_all_classes():
    content = ground_truth((1, A, BOX), (1, B, BOX), images=60)
    rows = [result(i, A, BOX, 0.5) for i in range(1, 1 + MIN_DETECTIONS)]
    rows.append(result(1, B, BOX, 0.9))
    fitted = fit_calibrators(detections_of(content, rows))
    assert [each is None for each in fitted.classes] == [False, True, True, True]
    assert fitted.pooled.map(np.array([0.9])) == pytest.approx([1], abs=1e-6)


def test_a_line_that_would_fall_is_constant():
    content = ground_truth((1, A, BOX), images=60)
    rows = [result(1, A, BOX, 0.1)] + [result(2, A, BOX, 0.9)] * MIN_DETECTIONS
    fitted = fit_calibrators(detections_of(content, rows), method="linear")
    mean = 1 / (1 + MIN_DETECTIONS)
    assert fitted.pooled.map(np.array([0.0, 1.0])) == pytest.approx([mean] * 2, abs=2e-6)
