"""The evaluator on data sets that other code registered, with or without a JSON file."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ranking_det.evaluation import DetectionEvaluator
from ranking_det.user_errors import UserError
from tests.evaluation.cases import BOX, DETECTIONS, FAR, NAME, SIDE, A, B, feed, ground_truth, write


def test_a_data_set_without_a_json_is_evaluated_with_its_dataset_dicts():
    box = {"bbox": BOX, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    record = {"file_name": "1.png", "image_id": 1, "width": SIDE, "height": SIDE}
    DatasetCatalog.register(NAME, lambda: [record | {"annotations": [box]}])
    MetadataCatalog.get(NAME).set(thing_classes=["only"])
    try:
        evaluator = DetectionEvaluator(NAME)
        feed(evaluator, [(1, 0, BOX, 0.5)], images=[1])
        results = evaluator.evaluate()["bbox"]
        assert results["AP"] == pytest.approx(100) and "AP-only" not in results
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


def test_images_of_a_data_set_without_a_json_may_have_string_ids(tmp_path):
    corners = [[10.0, 10.0, 50.0, 10.0, 50.0, 50.0, 10.0, 50.0]]
    annotation = {"bbox": (10, 10, 50, 50), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    annotation_lists = [annotation | {"segmentation": corners, "iscrowd": False}], []
    records = [
        {"file_name": f"{city}.png", "image_id": city, "width": SIDE, "height": SIDE}
        | {"annotations": annotations}
        for city, annotations in zip(("ulm_0.png", "aachen_0.png"), annotation_lists)
    ]
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(thing_classes=["car"], evaluator_type="cityscapes_instance")
    try:
        evaluator = DetectionEvaluator(NAME, output_dir=str(tmp_path))
        # The images are in a different order than in the data set.
        detections = [("aachen_0.png", 0, FAR, 0.9), ("ulm_0.png", 0, BOX, 0.8)]
        feed(evaluator, detections, images=("aachen_0.png", "ulm_0.png"), masks=True)
        results = evaluator.evaluate()
        assert [results[task]["AP"] for task in ("bbox", "segm")] == pytest.approx([50, 50])
        written = json.loads((tmp_path / "coco_instances_results.json").read_text())
        assert [result["image_id"] for result in written] == ["aachen_0.png", "ulm_0.png"]
        records[1]["image_id"] = "ulm_0.png"
        with pytest.raises(UserError, match="another image has the id ulm_0.png"):
            DetectionEvaluator(NAME)
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


def test_classes_are_sorted_by_category_id_if_the_metadata_has_no_ids(tmp_path):
    path = write(tmp_path / "gt.json", ground_truth((1, A, BOX), (1, B, FAR)))
    MetadataCatalog.get(NAME).set(json_file=path, evaluator_type="lvis")
    try:
        evaluator = DetectionEvaluator(NAME)
        feed(evaluator, DETECTIONS)
        assert evaluator.evaluate()["bbox"]["AP-common"] == pytest.approx(100)
    finally:
        MetadataCatalog.remove(NAME)


def test_a_file_of_another_lvis_version_raises_user_error_even_if_it_has_all_ids(tmp_path):
    content = ground_truth()
    frequency = {"frequency": "r"}
    content["categories"] = [{"id": i, "name": f"class {i}"} | frequency for i in range(1, 1231)]
    metadata = MetadataCatalog.get("ranking_lvis_v1_val")
    before = metadata.json_file
    try:
        metadata.__dict__["json_file"] = write(tmp_path / "gt.json", content)
        message = (
            r"gt.json: has 1230 \(LVIS v0.5\) categories, but the data set has 1203 \(LVIS v1\)"
        )
        with pytest.raises(UserError, match=message):
            DetectionEvaluator("ranking_lvis_v1_val")
    finally:
        metadata.__dict__["json_file"] = before


def test_a_root_category_that_is_registered_as_a_class_is_ignored(tmp_path):
    content = ground_truth((1, A, BOX), (1, B, FAR))
    for category in content["categories"]:
        category["supercategory"] = "things"
    root = {"id": 0, "name": "things", "frequency": "f", "supercategory": "none"}
    content["categories"].insert(0, root)
    path = write(tmp_path / "gt.json", content)
    names, class_of = ["things", "rare", "common"], {0: 0, A: 1, B: 2}
    MetadataCatalog.get(NAME).set(
        json_file=path, thing_classes=names, thing_dataset_id_to_contiguous_id=class_of
    )
    try:
        evaluator = DetectionEvaluator(NAME)
        feed(evaluator, [(1, 0, BOX, 0.9), (1, 1, BOX, 0.8), (1, 2, FAR, 0.7)])
        metrics = evaluator.evaluate()["bbox"]
        assert metrics["AP"] == pytest.approx(100) and "AP-things" not in metrics
    finally:
        MetadataCatalog.remove(NAME)
