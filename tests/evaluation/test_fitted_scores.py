"""Fitted scores survive a round trip through JSON, and faulty files are refused in one line."""

import copy
import json
import math

import numpy as np
import pytest

from ranking_det.evaluation import average_precision
from ranking_det.evaluation.fitted_scores import (
    fit_scores,
    parse_fitted_scores,
    read_fitted_scores,
)
from ranking_det.evaluation.metrics import evaluate_detections
from ranking_det.user_errors import UserError
from tests.evaluation.cases import BOX, FAR, NAMES, A, B, ground_truth, prepare, random_set, result

LABELS = [NAMES[identity] for identity in sorted(NAMES)]


def fit(content, results, **options):
    detections = evaluate_detections(prepare(content, "coco"), results, "bbox").detections
    return fit_scores(detections, LABELS, **{"precision": 0.5, **options})


@pytest.fixture(scope="module")
def fitted():
    return fit(*random_set(2))[0]


def test_a_round_trip_through_json_changes_nothing(fitted, tmp_path):
    path = tmp_path / "a.scores.json"
    path.write_text(json.dumps(fitted.to_json(), allow_nan=False))
    read = read_fitted_scores(path)
    assert read.to_json() == fitted.to_json()
    classes, scores = LABELS * 25, np.linspace(0, 1, 100)
    assert (read.calibrate(classes, scores) == fitted.calibrate(classes, scores)).all()


def test_results_are_calibrated_by_the_names_of_their_classes(fitted):
    content, results = random_set(2)
    before = copy.deepcopy(results)
    calibrated = fitted.calibrate_results(results, NAMES)
    assert results == before and [r["bbox"] for r in calibrated] == [r["bbox"] for r in results]
    names = [NAMES[row["category_id"]] for row in results]
    expected = fitted.calibrate(names, [row["score"] for row in results])
    assert [row["score"] for row in calibrated] == expected.tolist()
    content = prepare(content, "coco")
    aps = [
        average_precision(copy.deepcopy(content), rows, "bbox") for rows in (results, calibrated)
    ]
    of_classes = [
        {name: value for name, value in ap.items() if name != "AP"} for ap in aps
    ]  # all of them are computed per class
    assert of_classes[1] == pytest.approx(of_classes[0], abs=1e-9, nan_ok=True)


def test_a_detection_passes_the_calibrated_threshold_if_it_passes_the_raw_one(fitted):
    thresholds = dict(zip(LABELS, fitted.calibrated_thresholds(LABELS)))
    for label, name in enumerate(LABELS):
        raw = fitted.thresholds["lrp"].classes[label]
        calibrated = fitted.calibrate([name] * 2, [raw, raw - 0.05])
        assert (calibrated >= thresholds[name]).tolist() == [True, False]


def test_nothing_passes_in_a_class_that_never_reaches_the_precision():
    content = ground_truth((1, A, BOX), (1, B, BOX))
    rows = [result(1, A, FAR, 0.9), result(1, A, BOX, 0.8), result(1, B, BOX, 0.7)]
    fitted, without = fit(content, rows, precision=1.0, kind="precision")
    assert without == ["frequent", "absent"]
    assert fitted.calibrated_thresholds(["rare", "absent"]) == [math.inf] * 2
    assert fitted.calibrated_thresholds(["common"])[0] < 1
    assert fitted.to_json()["classes"]["rare"]["thresholds"]["precision"] is None


def test_added_classes_use_what_all_classes_share(fitted):
    more = fitted.with_classes(["new", *LABELS])
    assert more.calibrate(["new", "rare"], [0.5, 0.5]) == pytest.approx(
        [fitted.calibrators.pooled.map(np.array(0.5)), fitted.calibrate(["rare"], [0.5])[0]]
    )
    assert more.thresholds["f1"].classes[0] == fitted.thresholds["f1"].overall
    assert more.thresholds["f1"].classes[1:] == fitted.thresholds["f1"].classes


def test_scores_fitted_for_other_classes_are_refused(fitted):
    fitted.check_classes(LABELS[::-1], "the file")
    with pytest.raises(UserError, match="the file: .* 4 classes of the model, got 4 .*without cat"):
        fitted.check_classes([*LABELS[1:], "cat"], "the file")
    with pytest.raises(UserError, match="3 classes of the model, got 4 classes with rare"):
        fitted.check_classes(LABELS[1:], "the file")


@pytest.mark.parametrize("rows", [[], [result(1, A, FAR, 0.9)]])
def test_without_a_true_positive_there_is_nothing_to_fit(rows):
    with pytest.raises(UserError, match="expected detections that match an object .* got none"):
        fit(ground_truth((1, A, BOX)), rows)


def change(content, path, value):
    *parents, last = path
    for key in parents:
        content = content[key]
    if value is None:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["target"], None, "expected an entry 'target'"),
        (["target"], "area", "expected iou or tp as 'target', got 'area'"),
        (["drawn"], "ap", "expected lrp or f1 or precision as 'drawn'"),
        (["classes"], [], "classes: expected an object, got"),
        (["classes"], {}, "expected at least one class"),
        (
            ["classes", "rare", "thresholds", "f1"],
            "x",
            "classes.rare.thresholds: expected a number",
        ),
        (["thresholds", "lrp"], math.inf, "expected a number from 0 to 1 or null as 'lrp'"),
        (["thresholds", "lrp"], 10**400, "thresholds: expected a number from 0 to 1 or null"),
        (["thresholds", "lrp"], -0.5, "expected a number from 0 to 1 or null as 'lrp', got -0.5"),
        (["calibrator", "scores"], [], "calibrator: expected a list of finite numbers"),
        (["calibrator", "scores"], [0.2, 0.1], "expected ascending numbers as 'scores'"),
        (["calibrator", "values"], [math.nan], "expected a list of finite numbers as 'values'"),
        (["calibrator", "values"], [0.5], "calibrator: expected as many scores as values"),
        (["calibrator", "values"], [0.5, 1.5], "values"),
    ],
)
def test_a_faulty_file_is_refused_in_one_line(fitted, path, value, message):
    content = json.loads(json.dumps(fitted.to_json()))
    change(content, path, value)
    with pytest.raises(UserError, match=r"^a\.json: ") as caught:
        parse_fitted_scores(content, "a.json")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_another_json_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_fitted_scores(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(UserError, match="expected an object, got .*analysis fit writes such files"):
        read_fitted_scores(tmp_path / "a.json")
