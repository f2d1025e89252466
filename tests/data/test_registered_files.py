"""Custom COCO and LVIS JSON files as registered data sets."""

import json
import logging
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets import load_coco_json
from detectron2.evaluation import COCOEvaluator

from ranking_det.data.catalog import register_annotations
from ranking_det.data.coco_json.image_files import candidates
from ranking_det.evaluation.ground_truth import complete_for_evaluation
from tests.data.cases import IDS, NAMES, perfect_detections, read_summary, valid_content

NAME = "registered_by_a_test"
FORMATS = pytest.mark.parametrize("lvis", [False, True], ids=["coco", "lvis"])


@pytest.fixture
def register(tmp_path):
    """Write a file and empty files for its images, and register it; return its path."""

    def register_file(content, folder="."):
        path = tmp_path / folder / "custom.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
        for image in content["images"]:
            image_path = path.parent / "images" / candidates(image)[0]
            image_path.parent.mkdir(parents=True, exist_ok=True)
            image_path.touch()
        register_annotations(NAME, path.parent / "images", read_summary(path, max_headers=0))
        return path

    yield register_file
    for catalog in (DatasetCatalog, MetadataCatalog):
        if NAME in catalog:
            catalog.remove(NAME)


@FORMATS
def test_category_ids_with_gaps_become_classes_from_0(register, lvis, caplog):
    path = register(valid_content(lvis))
    with caplog.at_level(logging.WARNING):
        records = get_detection_dataset_dicts(NAME, filter_empty=False)
    assert not caplog.records
    metadata = MetadataCatalog.get(NAME)
    assert metadata.thing_classes == list(NAMES)
    assert metadata.thing_dataset_id_to_contiguous_id == {5: 0, 9: 1, 40: 2}
    assert metadata.evaluator_type == ("lvis" if lvis else "coco")
    assert (metadata.get("class_image_count") is not None) == lvis
    classes = [[a["category_id"] for a in record["annotations"]] for record in records]
    assert classes == [[0, 1], [2] if lvis else [2, 0], []]
    assert records[0].get("neg_category_ids") == ([9] if lvis else None)
    part = "val2017/11.png" if lvis else "11.png"
    assert records[0]["file_name"] == str(path.parent / "images" / part)


def test_the_dataset_dicts_equal_those_of_detectron2(register):
    content = valid_content()
    for annotation in content["annotations"]:
        annotation.setdefault("iscrowd", 0)
    path = register(content)
    expected = load_coco_json(str(path), str(path.parent / "images"), NAME)
    records = DatasetCatalog.get(NAME)
    for record in expected + records:
        for annotation in record["annotations"]:
            # Detectron2 keeps an empty list of polygons, which means the same as no mask.
            annotation["segmentation"] = annotation.get("segmentation") or None
    assert records == expected


def test_registering_again_replaces_the_data_set(register):
    register(valid_content())
    content = valid_content()
    content["categories"][0]["name"] = "wolf"
    path = register(content, "other")
    metadata = MetadataCatalog.get(NAME)
    assert Path(metadata.json_file) == path and metadata.thing_classes[2] == "wolf"
    assert Path(DatasetCatalog.get(NAME)[0]["file_name"]).parent == path.parent / "images"


def evaluate(output_dir, complete=True):
    """Evaluate perfect predictions with Detectron2; return the metrics."""
    evaluator = COCOEvaluator(NAME, tasks=("bbox",), output_dir=str(output_dir))
    if complete:
        evaluator._coco_api.dataset = complete_for_evaluation(evaluator._coco_api.dataset)
        evaluator._coco_api.createIndex()
    evaluator.reset()
    for record in DatasetCatalog.get(NAME):
        instances = perfect_detections(record)
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


@FORMATS
@pytest.mark.parametrize("first_id", [1, 0])
def test_perfect_predictions_have_ap_100_and_the_category_ids_of_the_file(
    register, tmp_path, lvis, first_id
):
    content = valid_content(lvis)
    content["annotations"][0]["id"] = first_id
    register(content)
    results = evaluate(tmp_path)
    assert [results[f"AP-{name}"] for name in NAMES] == pytest.approx([100] * 3)
    assert results["AP"] == pytest.approx(100)
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert [result["category_id"] for result in written] == list(IDS)


def test_detectron2s_evaluation_of_an_lvis_file_fails_without_completion(register, tmp_path):
    register(valid_content(lvis=True))
    with pytest.raises(KeyError, match="iscrowd|area"):
        evaluate(tmp_path, complete=False)
