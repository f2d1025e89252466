"""AP by COCO's and LVIS's rules equals hand-computed values, with both libraries."""

import copy
import math

import pytest

from ranking_det.evaluation import average_precision, libraries
from ranking_det.evaluation.ground_truth import fill_masks
from ranking_det.user_errors import UserError
from tests.evaluation.cases import NAMES, A, B, C, D, ground_truth, prepare, random_set, result

BOX, SECOND_BOX, FAR = [10, 10, 40, 40], [100, 10, 40, 40], [100, 100, 60, 60]
BOTH_IOU_TYPES = pytest.mark.parametrize("iou_type", ["bbox", "segm"])


def evaluate(content, results, iou_type="bbox", rules="lvis", **options):
    content = prepare(copy.deepcopy(content), rules)
    fill_masks(content)
    return average_precision(content, results, iou_type, rules=rules, **options)


@BOTH_IOU_TYPES
@pytest.mark.parametrize("rules", ["coco", "lvis"])
def test_ap_is_the_mean_of_the_precision_at_101_recalls(iou_type, rules):
    content = ground_truth((1, A, BOX), (1, A, SECOND_BOX))
    results = [result(1, A, BOX, 0.9), result(1, A, FAR, 0.8), result(1, A, SECOND_BOX, 0.7)]
    # Precision is 1 up to recall .5 (51 of the recalls 0, .01 to 1), then 2/3.
    expected = 100 * (51 + 50 * 2 / 3) / 101
    metrics = evaluate(content, results, iou_type, rules)
    for name in ("AP", "AP50", "AP75", "AP-rare"):
        assert metrics[name] == pytest.approx(expected, abs=1e-9)


def test_ap_is_the_mean_over_the_iou_thresholds():
    (content, box) = ground_truth((1, A, [0, 0, 100, 100])), [0, 0, 100, 72]  # IoU .72
    metrics = evaluate(content, [result(1, A, box, 0.9)])
    assert metrics["AP"] == pytest.approx(50)  # thresholds .50, .55, .60, .65 and .70 of ten
    assert metrics["AP50"] == pytest.approx(100) and metrics["AP75"] == 0


@BOTH_IOU_TYPES
def test_objects_and_detections_count_in_their_area_range(iou_type):
    small, medium, large = [0, 0, 31, 32], [40, 0, 50, 50], [40, 60, 120, 120]
    content = ground_truth((1, A, small), (1, A, medium), (1, A, large))
    results = [result(1, A, medium, 0.9), result(1, A, large, 0.8)]
    # A box next to a mask of another size must not give the area of the mask.
    if iou_type == "segm":
        results[0]["bbox"] = small
    metrics = evaluate(content, results, iou_type)
    assert [metrics[f"AP{area}"] for area in "sml"] == pytest.approx([0, 100, 100])


def test_rare_common_and_frequent_classes_are_averaged_separately():
    content = ground_truth((1, A, BOX), (1, B, BOX), (1, B, SECOND_BOX))
    metrics = evaluate(content, [result(1, A, BOX, 0.9), result(1, B, BOX, 0.9)])
    half = 100 * 51 / 101
    assert metrics["APr"] == pytest.approx(100) and metrics["APc"] == pytest.approx(half)
    assert math.isnan(metrics["APf"]) and math.isnan(metrics["AP-frequent"])  # no object
    assert metrics["AP"] == pytest.approx((100 + half) / 2)
    assert {f"AP-{name}" for name in NAMES.values()} < metrics.keys()


@BOTH_IOU_TYPES
@pytest.mark.parametrize(
    ("image", "lists", "lvis", "coco"),
    [
        # The unmatched detection scores highest: if it counts, precision is 1/2 at all recalls.
        pytest.param(2, {}, 100, 50, id="a class that was not annotated"),
        pytest.param(2, {"negative": {1: [A], 2: [B]}}, 100, 50, id="a class absent elsewhere"),
        pytest.param(2, {"negative": {2: [A]}}, 50, 50, id="a class known to be absent"),
        pytest.param(1, {}, 50, 50, id="a class annotated exhaustively"),
        pytest.param(1, {"not_exhaustive": {1: [A]}}, 100, 50, id="a class annotated partially"),
        pytest.param(1, {"not_exhaustive": {2: [A]}}, 50, 50, id="annotated partially elsewhere"),
    ],
)
def test_an_unmatched_detection_is_a_false_positive_only_where_its_class_is_annotated(
    iou_type, image, lists, lvis, coco
):
    content = ground_truth((1, A, BOX), **lists)
    results = [result(image, A, FAR, 0.9), result(1, A, BOX, 0.8)]
    assert evaluate(content, results, iou_type, "lvis")["AP"] == pytest.approx(lvis)
    assert evaluate(content, results, iou_type, "coco")["AP"] == pytest.approx(coco)


def test_objects_of_a_class_not_annotated_exhaustively_still_count():
    content = ground_truth((1, A, BOX), (1, A, SECOND_BOX), not_exhaustive={1: [A]})
    metrics = evaluate(content, [result(1, A, BOX, 0.9)])
    assert metrics["AP"] == pytest.approx(100 * 51 / 101)


def test_lvis_counts_the_300_best_detections_of_an_image_over_all_classes():
    content = ground_truth((1, A, BOX), (1, B, SECOND_BOX))
    results = [result(1, B, SECOND_BOX, 0.5), result(1, A, BOX, 0.1)]
    results[1:1] = [result(1, C, FAR, 0.4) for _ in range(299)]
    assert evaluate(content, results[1:])["AP-rare"] == pytest.approx(100)  # 300 in total
    metrics = evaluate(content, results)
    assert metrics["AP-rare"] == 0 and metrics["AP-common"] == pytest.approx(100)
    assert evaluate(content, results, max_dets=301)["AP-rare"] == pytest.approx(100)
    # By COCO's rules each class has its own limit.
    assert evaluate(content, results, rules="coco", max_dets=300)["AP-rare"] == pytest.approx(100)
    # Among equal scores the first are kept; detections in other images do not count here.
    results[-1]["score"] = 0.4
    assert evaluate(content, results)["AP-rare"] == 0
    assert evaluate(content, results[::-1])["AP-rare"] == pytest.approx(100)
    results[5]["image_id"] = 2
    assert evaluate(content, results)["AP-rare"] == pytest.approx(100)


@BOTH_IOU_TYPES
@pytest.mark.parametrize("rules", ["coco", "lvis"])
@pytest.mark.parametrize("library", ["faster-coco-eval", "pycocotools"])
def test_ap_is_0_without_detections_and_nan_without_objects(iou_type, rules, library):
    if rules == "lvis" and library == "pycocotools":
        with pytest.raises(UserError, match="pycocotools supports only COCO's rules"):
            evaluate(ground_truth(), [], iou_type, rules, library=library)
        return
    metrics = evaluate(ground_truth((1, A, BOX)), [], iou_type, rules, library=library)
    assert metrics["AP"] == metrics["APm"] == metrics["AP-rare"] == 0
    assert math.isnan(metrics["APl"]) and math.isnan(metrics["AP-common"])
    if rules == "lvis":
        assert metrics["APr"] == 0 and math.isnan(metrics["APc"])
    for results in ([], [result(1, A, BOX, 0.9)]):
        metrics = evaluate(ground_truth(), results, iou_type, rules, library=library)
        assert all(map(math.isnan, metrics.values()))


@BOTH_IOU_TYPES
def test_objects_without_a_mask_and_masks_without_area_do_not_crash(iou_type):
    content = ground_truth((1, A, BOX), (1, A, SECOND_BOX, {"segmentation": []}), (2, B, FAR))
    content["annotations"][2]["segmentation"] = [[5, 5, 5, 5, 5, 5]]
    flat = result(1, A, [0, 0, 0, 0], 0.2)
    metrics = evaluate(content, [result(1, A, BOX, 0.9), flat], iou_type)
    assert metrics["AP-rare"] == pytest.approx(100 * 51 / 101)
    assert metrics["AP-common"] == 0


@BOTH_IOU_TYPES
@pytest.mark.parametrize("max_dets", [100, 4])
def test_both_libraries_agree_on_cocos_rules(iou_type, max_dets):
    for seed in range(3):
        content, results = random_set(seed)
        options = {"iou_type": iou_type, "rules": "coco", "max_dets": max_dets}
        fast = evaluate(content, results, **options)
        reference = evaluate(content, results, **options, library="pycocotools")
        assert fast.keys() == reference.keys() and 5 < fast["AP"] < 95
        assert fast == pytest.approx(reference, abs=1e-9, nan_ok=True)


@BOTH_IOU_TYPES
@pytest.mark.parametrize("identity", [0, -1, -5, 2**53 + 1, 2**63 - 1, 10**30])
def test_ids_of_annotations_do_not_change_ap(iou_type, identity):
    boxes = [BOX, SECOND_BOX, FAR]
    content = ground_truth(*[(1, A, box) for box in boxes])
    for i, annotation in enumerate(content["annotations"]):
        annotation["id"] = identity - i
    results = [result(1, A, box, 0.9 - i / 10) for i, box in enumerate(boxes)]
    for library in ("faster-coco-eval", "pycocotools"):
        metrics = evaluate(content, results, iou_type, "coco", library=library)
        assert metrics["AP"] == pytest.approx(100), library


def test_the_block_size_and_a_second_evaluation_do_not_change_ap(
    monkeypatch,
):
    content, results = random_set(0)
    content = prepare(content, "lvis")
    before = copy.deepcopy(results)
    metrics = average_precision(content, results, "segm", rules="lvis")
    assert results == before
    monkeypatch.setattr(libraries, "PAIRS", 1)
    repeated = average_precision(content, results, "segm", rules="lvis")
    assert repeated == pytest.approx(metrics, abs=0, nan_ok=True)


def test_ap_is_computed_over_the_given_classes_only():
    content = ground_truth((1, A, BOX), (1, B, BOX))
    metrics = evaluate(content, [result(1, A, BOX, 0.9)], classes={A: "one", D: "none"})
    assert metrics["AP"] == metrics["AP-one"] == pytest.approx(100)
    assert "AP-common" not in metrics and math.isnan(metrics["AP-none"])


@BOTH_IOU_TYPES
@pytest.mark.parametrize("rules", ["coco", "lvis"])
def test_ids_of_images_and_categories_may_be_text_or_integers_that_floats_cannot_hold(
    iou_type, rules
):
    content, results = random_set(4)
    expected = evaluate(content, results, iou_type, rules)
    image_ids = {i: f"6f9619ff-{i}" if i % 2 else 2**53 + i for i in range(1, 31)}
    category_ids = {A: "rare", B: 2**60, C: "7f", D: 4}
    content, results = copy.deepcopy((content, results))
    for image in content["images"]:
        image["id"] = image_ids[image["id"]]
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[key] = [category_ids[identity] for identity in image[key]]
    for category in content["categories"]:
        category["id"] = category_ids[category["id"]]
    for entry in content["annotations"] + results:
        entry["image_id"] = image_ids[entry["image_id"]]
        entry["category_id"] = category_ids[entry["category_id"]]
    metrics = evaluate(content, results, iou_type, rules)
    assert metrics == pytest.approx(expected, abs=1e-9, nan_ok=True)
