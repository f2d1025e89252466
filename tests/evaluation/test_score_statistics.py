"""Histograms of scores, mean precision, cross-fitted calibration errors and thresholds."""

import numpy as np
import pytest

from ranking_det.evaluation.calibration import calibration_errors
from ranking_det.evaluation.lrp import optimal_lrp
from ranking_det.evaluation.matching import counted_rows, match
from ranking_det.evaluation.metrics import average_precision, evaluate_detections
from ranking_det.evaluation.precision_recall import mean_precision
from ranking_det.evaluation.score_statistics import (
    cross_fitted_calibration,
    image_halves,
    score_histogram,
    score_iou_histogram,
    score_range,
    threshold_numbers,
)
from tests.evaluation.cases import prepare, random_set


@pytest.fixture(scope="module")
def case():
    """Return ground truth, results, their evaluation, and the matches at IoU .5."""
    content, results = random_set(2)
    content = prepare(content, "coco")
    evaluation = evaluate_detections(content, results, "bbox")
    return content, results, evaluation, match(evaluation.detections)


def test_histograms_count_each_detection_once(case):
    _, _, evaluation, matches = case
    detections = evaluation.detections
    histogram = score_histogram(detections, matches, (0, 1))
    rows = counted_rows(detections, matches)
    true = matches.iou[rows] > 0
    assert sum(histogram["true_positives"]) == true.sum() > 0
    assert sum(histogram["false_positives"]) == (~true).sum() > 0
    # The score .5 is in the bin that starts there.
    bin_of_half = histogram["edges"].index(0.5)
    half = (detections.score[rows] == 0.5) & ~true
    assert histogram["false_positives"][bin_of_half] == half.sum() > 0
    counts = np.array(score_iou_histogram(detections, matches, (0, 1))["counts"])
    assert counts.shape == (20, 40) and counts.sum() >= true.sum()


def test_the_range_of_the_scores_starts_at_0_and_is_never_empty():
    assert score_range(np.array([0.2, 0.9])) == (0, 0.9)
    assert score_range(np.array([-3, -2.0])) == (-3, -2)
    assert score_range(np.array([])) == score_range(np.array([0.0])) == (0, 1)


def test_the_mean_of_the_mean_precision_is_ap(case):
    content, results, evaluation, _ = case
    curves = mean_precision(evaluation.precision)
    metrics = average_precision(content, results, "bbox")
    for name in ("AP50", "AP75"):
        assert 100 * np.mean(curves[name]) == pytest.approx(metrics[name])
    assert mean_precision(np.full((10, 101, 2, 4), -1.0))["AP50"] == []


def test_calibration_uses_the_lrp_thresholds_of_the_other_half(case):
    content, results, evaluation, matches = case
    detections = evaluation.detections
    half = image_halves(len(content["images"]))
    assert abs(int(half.sum()) - int((~half).sum())) <= 1
    half_of = {image["id"]: half[index] for index, image in enumerate(content["images"])}
    in_half = np.array([half_of[results[i]["image_id"]] for i in detections.result])
    annotations = [content["annotations"][i] for i in detections.objects.annotation]
    object_in_half = np.array([half_of[a["image_id"]] for a in annotations])
    selected = np.zeros(len(in_half), bool)
    for part in (False, True):
        for label in range(detections.num_classes):
            rows = (detections.label == label) & (in_half == part) & ~matches.ignored
            objects = detections.objects
            number = ((objects.label == label) & ~objects.crowd & (object_in_half == part)).sum()
            lrp = optimal_lrp(detections.score[rows], matches.iou[rows], int(number))
            if np.isnan(lrp.threshold):
                rows = (in_half == part) & ~matches.ignored
                rows = np.flatnonzero(rows)[np.argsort(-detections.score[rows], kind="stable")]
                number = (~objects.crowd & (object_in_half == part)).sum()
                lrp = optimal_lrp(detections.score[rows], matches.iou[rows], int(number))
            other = (detections.label == label) & (in_half != part)
            selected |= other & (detections.score >= lrp.threshold)
    expected = calibration_errors(detections, selected).overall
    errors = cross_fitted_calibration(detections, matches, half)
    assert errors["overall"] == pytest.approx(expected, nan_ok=True)
    logits = detections._replace(score=detections.score * 9 - 4)
    assert cross_fitted_calibration(logits, matches, half) is None


def test_thresholds_start_at_the_ap_of_all_detections(case):
    content, results, evaluation, matches = case
    numbers = threshold_numbers(evaluation.detections, matches, (0, 1), len(content["images"]))
    first, last = numbers["rows"][0], numbers["rows"][-1]
    assert first["AP"] == pytest.approx(average_precision(content, results, "bbox")["AP"])
    assert (first["threshold"], last["threshold"]) == (0, 1) and last["AP"] < first["AP"]
    assert set(numbers["best"]) == {"lrp", "f1", "precision", "largest"}
