"""Detections are matched at any IoU, and know their result and annotation."""

import copy

import numpy as np
import pytest

from ranking_det.evaluation.matching import Overlaps, match, match_greedily
from ranking_det.evaluation.metrics import evaluate_detections
from tests.evaluation.cases import A, B, C, ground_truth, prepare, random_set, result
from tests.evaluation.lrp_by_loop import region_iou

BOX, HALF, FAR = [10, 10, 40, 40], [10, 10, 40, 20], [100, 100, 60, 60]


def detections_of(content, results, rules="coco"):
    content = prepare(copy.deepcopy(content), rules)
    return evaluate_detections(content, results, "bbox", rules=rules).detections


@pytest.mark.parametrize("rules", ["coco", "lvis"])
def test_a_match_names_its_result_and_its_annotation(rules):
    content, results = random_set(2)
    detections = detections_of(content, results, rules)
    matches = match(detections, min_iou=0.3)
    annotations = content["annotations"]
    assert (matches.target >= 0).sum() > 20 and (matches.target < 0).any()
    for i, (position, target) in enumerate(zip(detections.result, matches.target, strict=True)):
        assert detections.score[i] == results[position]["score"]
        if target < 0:
            assert matches.iou[i] == 0
            continue
        row, annotation = results[position], annotations[target]
        for key in ("image_id", "category_id"):
            assert row[key] == annotation[key]
        assert matches.iou[i] == pytest.approx(region_iou(row, annotation, "bbox"), abs=1e-6)


def test_the_minimum_iou_decides_about_a_match():
    content = ground_truth((1, A, BOX))
    detections = detections_of(content, [result(1, A, HALF, 0.9)])
    assert match(detections, min_iou=0.5).iou == [0.5]
    assert match(detections, min_iou=0.55).target == [-1]


def test_at_a_minimum_iou_of_zero_boxes_must_still_overlap():
    content = ground_truth((1, A, BOX), (2, B, BOX))
    sliver = [49, 49, 40, 40]
    rows = [result(1, A, sliver, 0.9), result(2, B, FAR, 0.8), result(2, A, BOX, 0.7)]
    matches = match(detections_of(content, rows), min_iou=0)
    assert (matches.target >= 0).tolist() == [True, False, False]
    assert 0 < matches.iou[0] < 0.001


def test_a_file_without_results_has_objects_to_miss():
    detections = detections_of(ground_truth((1, A, BOX), (1, C, BOX)), [])
    matches = match(detections)
    assert len(detections.score) == len(matches.iou) == 0
    assert matches.num_objects.tolist() == [1, 0, 1, 0]


def match_one_by_one(pairs, ignored, crowd):
    """Match the detections in their order: the best free object, of equal ones the last."""
    taken, matched = set(), []
    for detection in dict.fromkeys(pairs.detection.tolist()):
        free = [
            (not ignored[target], iou, i)
            for i, (row, target, iou) in enumerate(zip(*pairs, strict=True))
            if row == detection and (crowd[target] or target not in taken)
        ]
        if free:
            matched.append(max(free)[2])
            taken.add(pairs.target[matched[-1]])
    return [column[matched].tolist() for column in pairs]


@pytest.mark.parametrize("seed", range(20))
def test_matching_at_once_equals_matching_one_detection_after_the_other(seed):
    rng = np.random.default_rng(seed)
    num_detections, num_objects = rng.integers(0, 15, 2)
    wanted = rng.random((num_detections, num_objects)) < 0.6
    detection, target = np.nonzero(wanted)
    detection = rng.permutation(num_detections)[detection]  # the order is not that of the indices
    iou = rng.integers(1, 5, len(target)) / 4  # many are equal
    ignored = rng.random(num_objects) < 0.4
    crowd = ignored & (rng.random(num_objects) < 0.5)
    pairs = Overlaps(detection, target, iou)
    matched = match_greedily(pairs, ignored, crowd)
    assert [column.tolist() for column in matched] == match_one_by_one(pairs, ignored, crowd)


def test_detections_with_other_scores_share_their_matches():
    detections = detections_of(*random_set(2))
    rescored = detections._replace(score=detections.score / 2)
    assert match(rescored, min_iou=0.6) is match(detections, min_iou=0.6)
    assert match(rescored, min_iou=0.6) is not match(detections, min_iou=0.5)
