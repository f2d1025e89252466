"""Ranking errors of images, against loops and by hand."""

import numpy as np
import pytest

from ranking_det.evaluation.matching import match
from ranking_det.evaluation.metrics import evaluate_detections
from ranking_det.evaluation.ranking_errors import (
    ImageErrors,
    choose_images,
    describe_ranking,
    image_errors,
    rank_objects,
)
from tests.evaluation.cases import BOX, FAR, A, B, ground_truth, prepare, random_set, result


def matched(content, results, rules):
    evaluation = evaluate_detections(content, results, "bbox", rules=rules)
    return evaluation.detections, match(evaluation.detections)


@pytest.mark.parametrize("rules", ["coco", "lvis"])
def test_the_error_of_an_object_is_the_share_of_false_positives_at_or_above_it(rules):
    content, results = random_set(1)  # with many equal scores
    content = prepare(content, rules)
    detections, matches = matched(content, results, rules)
    index_of = {entry["id"]: index for index, entry in enumerate(content["images"])}
    image = np.array([index_of[results[i]["image_id"]] for i in detections.result])
    ranking = rank_objects(detections, matches)
    errors = np.zeros(len(content["images"]))
    for row, above, error in zip(*ranking):
        same_image = (image == image[row]) & ~matches.ignored
        true = matches.iou > 0
        is_above = same_image & ~true & (detections.score > detections.score[row])
        hits = same_image & true & (detections.score >= detections.score[row])
        assert above == is_above.sum()
        assert error == pytest.approx(above / (above + hits.sum()))
        errors[image[row]] += error
    assert len(ranking.row) == ((matches.iou > 0) & ~matches.ignored).sum() > 20
    totals = image_errors(detections, matches, len(errors))
    assert totals.error == pytest.approx(errors) and errors.any()
    assert totals.detected.sum() == len(ranking.row)


def test_the_chosen_images_have_the_largest_error_of_any_detector_and_the_most_correct_objects():
    first = ImageErrors(np.array([0, 2.0, 0.5, 0, 0]), np.array([3, 4, 2, 5, 0]))
    second = ImageErrors(np.array([0, 0.1, 3.0, 0, 0]), np.array([3, 4, 2, 4, 1]))
    assert choose_images([first, second], 2, 3) == ([2, 1], [3, 0])
    assert choose_images([first, second], 9, 9) == ([2, 1], [3, 0])


def test_an_image_is_described_by_its_outranked_objects_and_its_best_false_positives():
    content = prepare(ground_truth((1, A, BOX), (1, B, FAR), (1, A, [150, 0, 9, 9])), "coco")
    results = [result(1, A, BOX, 0.4), result(1, B, FAR, 0.9)]
    results += [result(1, A, BOX, 0.3), result(1, A, FAR, 0.8), result(1, B, [0, 150, 9, 9], 0.5)]
    image = content["images"][0]
    ranking = describe_ranking(content, results, "bbox", image, "coco")
    assert (ranking["detected"], ranking["missed"], ranking["outranked"]) == (2, 1, 1)
    assert ranking["error"] == pytest.approx(2 / 4)
    first, second = ranking["objects"]
    assert first == {"class": "rare", "score": 0.4, "iou": 1, "above": 2, "bbox": BOX}
    assert (second["class"], second["above"]) == ("common", 0)
    kinds = [(entry["score"], entry["kind"]) for entry in ranking["false_positives"]]
    assert kinds == [(0.8, "classification"), (0.5, "background"), (0.3, "duplicate")]
