"""Numbers about detections equal hand-computed values and loops over their definitions."""

import copy
import math

import numpy as np
import pytest

from ranking_det.evaluation import cross_class_iou
from ranking_det.evaluation.confusion import confusion_matrix
from ranking_det.evaluation.correlation import correlate
from ranking_det.evaluation.detection_analysis import analyze_detections
from ranking_det.evaluation.error_kinds import (
    BACKGROUND_IOU,
    FALSE_POSITIVE_KINDS,
    classify_errors,
)
from ranking_det.evaluation.ground_truth import fill_masks
from ranking_det.evaluation.matching import match
from ranking_det.evaluation.metrics import average_precision, evaluate_detections
from ranking_det.evaluation.precision_recall import (
    best_f1_threshold,
    operating_point,
    precision_recall_curve,
    ranking_ap,
    thin,
)
from ranking_det.files import without_nan
from tests.evaluation import analysis_by_loop as by_loop
from tests.evaluation.analysis_by_loop import approx
from tests.evaluation.cases import A, B, C, ground_truth, prepare, random_set, result

BOX, SECOND_BOX, FAR = [10, 10, 40, 40], [100, 10, 40, 40], [100, 100, 60, 60]


def analyze(content, results, iou_type="bbox", rules="coco", **options):
    content = prepare(copy.deepcopy(content), rules)
    fill_masks(content)
    evaluation = evaluate_detections(content, results, iou_type, rules=rules)
    return analyze_detections(evaluation, content, results, iou_type, **options)


def confused_set(seed):
    """Return a random set in which a third of the detections have a random class."""
    content, results = random_set(seed, images=20)
    rng = np.random.default_rng(seed)
    for row in results:
        if rng.random() < 0.35:
            row["category_id"] = int(rng.choice([A, B, C]))
    return content, results


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("rules", ["coco", "lvis"])
def test_all_numbers_equal_loops_over_their_definitions(rules, iou_type):
    content, results = confused_set(3 if rules == "coco" else 4)
    numbers = analyze(content, results, iou_type, rules, score_threshold=0.45)
    by_loop.check_analysis(numbers, content, results, iou_type, rules, 0.45)
    errors = numbers["overall"]["errors"]
    assert all(errors[kind]["count"] for kind in (*FALSE_POSITIVE_KINDS, "missed"))


def test_pooled_ap_ranks_the_detections_of_all_classes():
    content = ground_truth((1, A, BOX), (1, B, BOX))
    results = [result(1, A, BOX, 0.9), result(1, B, FAR, 0.8), result(1, B, BOX, 0.7)]
    numbers = analyze(content, results)["overall"]
    # Precision 1 up to recall .5, then 2/3; by class 1 and 1/2.
    expected = 100 * (51 + 50 * 2 / 3) / 101
    for name in ("pooledAP", "pooledAP50", "pooledAP75"):
        assert numbers[name] == pytest.approx(expected)
    assert numbers["AP"] == pytest.approx(75)


def test_the_ap_of_a_ranking_is_0_without_true_positives_and_nan_without_objects():
    assert ranking_ap(np.zeros(3, bool), 2) == ranking_ap(np.zeros(0, bool), 2) == 0
    assert math.isnan(ranking_ap(np.ones(2, bool), 0))


def test_correlation_coefficients_of_four_detections():
    correlation = correlate(np.array([0.9, 0.8, 0.7, 0.7]), np.array([0.9, 0.6, 0.8, 0.7]))
    # By hand: ranks 4, 3, 1.5, 1.5 and 4, 1, 3, 2; three pairs agree, two disagree, one is a tie.
    assert correlation.count == 4
    assert correlation.pearson == pytest.approx(0.015 / math.sqrt(0.0275 * 0.05))
    assert correlation.spearman == pytest.approx(1.5 / math.sqrt(4.5 * 5))
    assert correlation.kendall == pytest.approx(1 / math.sqrt(5 * 6))


@pytest.mark.parametrize("pairs", [[], [(0.5, 0.6)], [(0.5, 0.6), (0.5, 0.7)], [(1, 0.6)] * 3])
def test_correlation_is_undefined_with_fewer_than_two_values(pairs):
    scores, ious = np.array(pairs, float).reshape(-1, 2).T
    correlation = correlate(scores, ious)
    assert correlation.count == len(pairs) and np.isnan(correlation[1:]).all()
    assert np.isnan(correlate(ious, scores)[1:]).all()


def test_two_detections_correlate_fully():
    assert correlate(np.array([0.1, 0.2]), np.array([0.9, 0.8])) == approx((2, -1, -1, -1))


def test_detections_of_equal_score_pass_a_threshold_together():
    scores, true = np.array([0.5, 0.9, 0.5, 0.5]), np.array([True, True, False, False])
    curve = precision_recall_curve(scores, true, 4)
    assert curve.threshold.tolist() == [0.9, 0.5]
    assert curve.precision.tolist() == [1, 0.5] and curve.recall.tolist() == [0.25, 0.5]
    assert curve.f1.tolist() == [0.4, 0.5]
    assert operating_point(curve, 0.95) == approx((0, 0, 4, math.nan, 0, 0))
    assert operating_point(curve, 0.6) == operating_point(curve, 0.9) == (1, 0, 4, 1, 0.25, 0.4)
    assert operating_point(curve, -math.inf) == (2, 2, 4, 0.5, 0.5, 0.5)
    assert best_f1_threshold(curve) == 0.5


def test_of_equal_f1_the_highest_threshold_is_the_best():
    curve = precision_recall_curve(np.array([0.9, 0.8]), np.array([False, True]), 1)
    assert best_f1_threshold(curve) == 0.8
    curve = precision_recall_curve(np.arange(4, 0, -1.0), np.array([1, 0, 0, 1], bool), 2)
    assert curve.f1[[0, 3]] == approx(2 / 3) and best_f1_threshold(curve) == 4


@pytest.mark.parametrize(("scores", "objects"), [([], 2), ([], 0), ([0.5, 0.4], 0)])
def test_curves_without_detections_or_objects_have_no_best_threshold(scores, objects):
    curve = precision_recall_curve(np.array(scores), np.zeros(len(scores), bool), objects)
    assert math.isnan(best_f1_threshold(curve)) and len(thin(curve).threshold) == 0
    point = operating_point(curve, 0.1)
    assert point[:3] == (0, len(scores), objects)
    assert point.recall == point.f1 == 0 if objects else np.isnan(point[4:]).all()


def test_a_thinned_curve_has_the_first_point_of_each_percent_and_the_last():
    rng = np.random.default_rng(0)
    scores, true = rng.random(5000), rng.random(5000) < 0.3
    curve = precision_recall_curve(scores, true, 3000)
    thinned = thin(curve)
    assert 45 < len(thinned.threshold) <= 102
    assert thinned.threshold[[0, -1]].tolist() == [scores.max(), scores.min()]
    for recall in np.linspace(0, thinned.recall.max(), 7):
        first = curve.threshold[curve.recall >= recall - 1e-12].max()
        reached = thinned.threshold[thinned.recall >= recall - 1e-12].max()
        assert operating_point(curve, reached).recall <= operating_point(curve, first).recall + 0.01


def test_one_image_shows_each_kind_of_error():
    # Objects: BOX (A) detected twice, SECOND_BOX (B) taken for A, FAR (C) badly located, and two
    # more of class C, one without a detection near it.
    lower = [10, 100, 40, 40]
    content = ground_truth((1, A, BOX), (1, B, SECOND_BOX), (1, C, FAR), (1, C, lower), (2, C, BOX))
    rows = {
        "true": result(1, A, BOX, 0.9),
        "duplicate": result(1, A, [10, 10, 40, 36], 0.8),
        "classification": result(1, A, SECOND_BOX, 0.7),
        "localization": result(1, C, [100, 100, 60, 24], 0.6),
        "both": result(1, A, [10, 100, 40, 16], 0.5),
        "background": result(1, B, [160, 10, 20, 20], 0.4),
    }
    errors = analyze(content, list(rows.values()))["overall"]["errors"]
    assert {kind: errors[kind]["count"] for kind in list(rows)[1:]} == dict.fromkeys(
        list(rows)[1:], 1
    )
    assert errors["missed"]["count"] == 2
    third = 100 * 34 / 101  # one of three objects of class C: recalls 0 to .33
    gains = {"classification": 100, "localization": third, "missed": 0}
    for kind in list(rows)[1:] + ["missed"]:
        assert errors[kind]["AP"] == pytest.approx(gains.get(kind, 0) / 3), kind
    assert errors["AP50"] == pytest.approx(100 / 3)


def correct(content, results, detections, errors, index):
    """Return the results with the errors of a kind corrected."""
    objects, rows = detections.objects, np.flatnonzero(errors.kind == index)
    targets = match(detections).target
    best = {}
    for i in rows[errors.target[rows] >= 0]:
        annotation = objects.annotation[errors.target[i]]
        is_better = detections.score[i] > detections.score[best.get(annotation, i)]
        if annotation not in targets and (annotation not in best or is_better):
            best[annotation] = i
    removed = set(detections.result[rows])
    corrected = [row for position, row in enumerate(results) if position not in removed]
    for annotation, i in best.items():
        new = {key: content["annotations"][annotation][key] for key in ("bbox", "category_id")}
        corrected.append(results[detections.result[i]] | new)
    return corrected


@pytest.mark.parametrize("rules", ["coco", "lvis"])
def test_a_kind_of_error_costs_what_ap50_gains_if_the_files_are_corrected(rules):
    content, results = confused_set(7)
    ranks = np.random.default_rng(7).permutation(len(results))
    results = [row | {"score": 1 / (2 + rank)} for row, rank in zip(results, ranks.tolist())]
    content = prepare(content, rules)
    evaluation = evaluate_detections(content, results, "bbox", rules=rules)
    detections = evaluation.detections
    overlaps = cross_class_iou.cross_class_overlaps(
        content, results, detections, "bbox", min_iou=BACKGROUND_IOU
    )
    errors = classify_errors(detections, match(detections), overlaps)
    numbers = analyze_detections(evaluation, content, results, "bbox")["overall"]
    for index, kind in enumerate(FALSE_POSITIVE_KINDS):
        corrected = correct(content, results, detections, errors, index)
        ap50 = average_precision(content, corrected, "bbox", rules=rules)["AP50"]
        assert numbers["errors"][kind]["AP"] == approx(ap50 - numbers["AP50"]), kind
    missed = set(detections.objects.annotation[errors.missed])
    rest = [a for i, a in enumerate(content["annotations"]) if i not in missed]
    # By LVIS's rules, the classes of removed objects stay annotated.
    images = copy.deepcopy(content["images"])
    for i in missed:
        annotation = content["annotations"][i]
        images[annotation["image_id"] - 1]["neg_category_ids"].append(annotation["category_id"])
    content |= {"annotations": rest, "images": images}
    ap50 = average_precision(content, results, "bbox", rules=rules)["AP50"]
    assert numbers["errors"]["missed"]["AP"] == approx(ap50 - numbers["AP50"])


def test_a_corrected_detection_is_removed_if_its_object_is_detected_twice():
    content = ground_truth((1, A, BOX), (1, B, SECOND_BOX))
    # BOX is detected, with a score below that of the wrong class and that of a false positive.
    rows = [result(1, B, BOX, 0.9), result(1, A, BOX, 0.5), result(1, A, FAR, 0.7)]
    errors = analyze(content, rows)["overall"]["errors"]
    assert errors["classification"] == {"count": 1, "AP": 0}
    rows = [result(1, B, BOX, 0.9), result(1, C, BOX, 0.5)]
    errors = analyze(content, rows)["overall"]["errors"]
    assert errors["classification"]["count"] == 2
    assert errors["classification"]["AP"] == pytest.approx(50)


def test_an_iou_at_a_limit_belongs_to_the_kind_that_is_tested_first():
    # IoU .5 with an object that is taken: localization; .1 with one of another class: background.
    content = ground_truth((1, A, BOX), (1, B, [100, 100, 40, 40]))
    rows = [result(1, A, BOX, 0.9), result(1, A, [10, 10, 40, 20], 0.8)]
    rows.append(result(1, A, [100, 100, 40, 4], 0.7))
    numbers = analyze(content, rows)["overall"]
    assert numbers["correlation"]["count"] == 1  # IoUs above .5
    errors = numbers["errors"]
    counts = {kind: errors[kind]["count"] for kind in errors if kind != "AP50"}
    assert counts == {"localization": 1, "background": 1, "missed": 1} | dict.fromkeys(
        ("classification", "duplicate", "both"), 0
    )


def test_the_confusion_matrix_matches_within_classes_first():
    content = ground_truth((1, A, BOX), (1, B, SECOND_BOX), (2, C, BOX))
    rows = [
        result(1, B, BOX, 0.9),  # the object is that of the detection of its class
        result(1, A, BOX, 0.8),
        result(1, C, SECOND_BOX, 0.7),
        result(1, A, [100, 10, 40, 36], 0.6),  # the object is taken
        result(2, C, BOX, 0.1),  # below the threshold
    ]
    numbers = analyze(content, rows, score_threshold=0.2)
    assert numbers["confusion_matrix"]["classes"][-1] == "background"
    assert numbers["confusion_matrix"]["counts"] == [
        [1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
    ]


def test_without_a_threshold_the_one_of_the_highest_f1_is_chosen():
    content = ground_truth((1, A, BOX), (1, B, BOX))
    rows = [result(1, A, BOX, 0.9), result(1, B, BOX, 0.6), result(2, B, FAR, 0.3)]
    numbers = analyze(content, rows)
    assert numbers["score_threshold"] == 0.6
    assert numbers["overall"]["at_threshold"]["f1"] == 1
    assert sum(map(sum, numbers["confusion_matrix"]["counts"])) == 2


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("rules", ["coco", "lvis"])
@pytest.mark.parametrize(
    ("objects", "results"),
    [
        pytest.param([(1, A, BOX)], [], id="no detection"),
        pytest.param([], [(1, A, BOX, 0.9)], id="no object"),
        pytest.param([], [], id="nothing"),
        pytest.param([(1, A, BOX)], [(1, A, FAR, 0.9), (2, B, FAR, 0.8)], id="no true positive"),
        pytest.param([(1, A, BOX, {"iscrowd": 1})], [(1, A, BOX, 0.9)], id="only a crowd"),
    ],
)
def test_sets_without_a_true_positive_have_defined_numbers(objects, results, rules, iou_type):
    rows = [result(*row) for row in results]
    numbers = analyze(ground_truth(*objects), rows, iou_type, rules)
    overall, count = numbers["overall"], sum(len(row) == 3 for row in objects)
    assert math.isnan(numbers["score_threshold"])
    for name in ("pooledAP", "AP"):
        assert overall[name] == 0 if count else math.isnan(overall[name])
    assert math.isnan(overall["correlation"]["pearson"])
    assert overall["at_threshold"]["num_objects"] == count
    assert overall["at_threshold"]["true_positives"] == 0
    assert overall["errors"]["missed"]["count"] == count
    matrix = np.array(numbers["confusion_matrix"]["counts"])
    assert matrix[:, -1].sum() == count
    assert matrix[-1].sum() == overall["at_threshold"]["false_positives"]


def test_the_block_size_does_not_change_the_overlaps(monkeypatch):
    content, results = confused_set(5)
    expected = analyze(content, results, "segm")
    monkeypatch.setattr(cross_class_iou, "BLOCK", 3)
    numbers = analyze(content, results, "segm")
    for name in ("confusion_matrix", "score_threshold"):
        assert numbers[name] == expected[name]
    assert numbers["overall"]["errors"] == expected["overall"]["errors"]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_ids_of_images_and_categories_may_be_text(iou_type):
    content, results = confused_set(6)
    expected = analyze(content, results, iou_type)
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        for image in content["images"]:
            del image[key]
    for entry in content["images"]:
        entry["id"] = f"image {entry['id']:02}"
    content["categories"].sort(key=lambda category: category["id"])
    for entry in content["categories"]:
        entry["id"] = f"category {entry['id']}"
    for entry in content["annotations"] + results:
        entry["image_id"] = f"image {entry['image_id']:02}"
        entry["category_id"] = f"category {entry['category_id']}"
    numbers = analyze(content, results, iou_type)
    for name in ("score_threshold", "overall", "confusion_matrix"):
        assert without_nan(numbers[name]) == without_nan(expected[name]), name


def test_masks_may_be_polygons_or_uncompressed_or_compressed_rle():
    content = ground_truth((1, A, BOX), (1, A, SECOND_BOX), (1, A, FAR))
    for annotation in content["annotations"][1:]:
        rle = result(1, A, annotation["bbox"], 1)["segmentation"]
        annotation["segmentation"] = rle
    x, y, width, height = FAR
    counts = [200 * x + y] + [height, 200 - height] * (width - 1) + [height]
    counts.append(200 * 200 - sum(counts))
    content["annotations"][2]["segmentation"] = {"size": [200, 200], "counts": counts}
    rows = [result(1, B, box, 0.9) for box in (BOX, SECOND_BOX, FAR)]
    content = prepare(content, "coco")
    detections = evaluate_detections(content, rows, "segm").detections
    overlaps = cross_class_iou.cross_class_overlaps(content, rows, detections, "segm", min_iou=0.1)
    assert overlaps.iou.tolist() == [1, 1, 1]
    assert overlaps.target.tolist() == detections.result[overlaps.detection].tolist()
    errors = classify_errors(detections, match(detections), overlaps)
    assert not errors.missed.any()
    assert confusion_matrix(detections, match(detections), overlaps, 0)[0, 1] == 3
