"""DetectionEvaluator, called as Detectron2 calls an evaluator."""

import json
import logging

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from torch import distributed, multiprocessing

from ranking_det.data.coco_json.reader import ReadOptions
from ranking_det.evaluation import DetectionEvaluator
from ranking_det.user_errors import UserError
from tests.evaluation.cases import (
    BOX,
    CLASSES,
    DETECTIONS,
    FAR,
    NAME,
    NAMES,
    SIDE,
    A,
    B,
    feed,
    ground_truth,
    random_set,
    write,
)


@pytest.fixture
def register(tmp_path):
    """Return a function that writes and registers an annotation file."""

    def register_file(content, evaluator_type="lvis", **metadata):
        MetadataCatalog.get(NAME).set(
            json_file=write(tmp_path / "gt.json", content),
            evaluator_type=evaluator_type,
            thing_classes=list(NAMES.values()),
            thing_dataset_id_to_contiguous_id=CLASSES,
            **metadata,
        )

    yield register_file
    for catalog in (DatasetCatalog, MetadataCatalog):
        if NAME in catalog:
            catalog.remove(NAME)


def test_the_data_set_determines_the_rules_and_classes_become_category_ids(
    register, tmp_path, caplog
):
    caplog.set_level(logging.INFO)
    for kind, expected in (("lvis", 100), ("coco", 50)):
        MetadataCatalog.pop(NAME, None)
        register(ground_truth((1, A, BOX), (1, B, FAR)), kind)
        evaluator = DetectionEvaluator(NAME, output_dir=str(tmp_path / "new"))
        feed(evaluator, DETECTIONS)
        results = evaluator.evaluate()
        assert list(results) == ["bbox"] and ("APr" in results["bbox"]) == (kind == "lvis")
        assert results["bbox"]["AP-rare"] == pytest.approx(expected)
        assert results["bbox"]["AP-common"] == pytest.approx(100)
        assert f"rare {expected}.0, common 100.0" in caplog.text
        assert evaluator.evaluate()["bbox"]["AP"] == results["bbox"]["AP"]  # repeatable
        written = json.loads((tmp_path / f"new/{kind}_instances_results.json").read_text())
        assert [entry["category_id"] for entry in written] == [A, B, A]
        evaluator.reset()
        feed(evaluator, DETECTIONS[1:])
        assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def test_objects_in_unreadable_images_do_not_count_as_missed(register, caplog):
    content = ground_truth((1, A, BOX), (1, B, FAR))
    content["annotations"].append({**content["annotations"][0], "id": 99, "image_id": 2})
    register(content)
    evaluator = DetectionEvaluator(NAME)
    feed(evaluator, DETECTIONS, images=(1,))
    assert evaluator.evaluate()["bbox"]["AP-rare"] < 99
    evaluator.process([{"image_id": 2, "unreadable": "truncated"}], [{"instances": None}])
    with caplog.at_level(logging.WARNING):
        assert evaluator.evaluate()["bbox"]["AP-rare"] == pytest.approx(100)
    assert "1 of 2 images cannot be read; AP excludes 1 object in unreadable images" in caplog.text
    evaluator.reset()
    feed(evaluator, DETECTIONS)
    assert evaluator.evaluate()["bbox"]["AP-rare"] < 99


def test_masks_are_evaluated_if_the_model_and_the_data_set_have_them(register, caplog):
    content = ground_truth((1, A, BOX), (1, B, FAR))
    register(content)
    evaluator = DetectionEvaluator(NAME)
    feed(evaluator, DETECTIONS, masks=True)
    results = evaluator.evaluate()
    assert list(results) == ["bbox", "segm"]
    assert results["segm"]["AP"] == pytest.approx(100)
    evaluator = DetectionEvaluator(NAME, tasks=["segm"])
    feed(evaluator, [], masks=True)
    assert evaluator.evaluate()["segm"]["AP"] == 0

    for annotation in content["annotations"]:
        del annotation["segmentation"], annotation["area"]
    MetadataCatalog.pop(NAME)
    register(content)
    evaluator = DetectionEvaluator(NAME)
    feed(evaluator, DETECTIONS, masks=True)
    with caplog.at_level(logging.WARNING):
        assert list(evaluator.evaluate()) == ["bbox"]
    assert "The data set has no masks: only boxes are evaluated" in caplog.text
    with pytest.raises(UserError, match="no annotation has a valid 'segmentation'"):
        DetectionEvaluator(NAME, tasks=["segm"])


def test_a_model_without_masks_raises_user_error_at_its_first_detection_if_masks_are_a_task(
    register,
):
    register(ground_truth((1, A, BOX)))
    evaluator = DetectionEvaluator(NAME, tasks=["bbox", "segm"])
    feed(evaluator, [])
    with pytest.raises(UserError, match="tasks has 'segm', but the model detects no masks"):
        feed(evaluator, DETECTIONS)


@pytest.mark.parametrize("library", ["faster-coco-eval", "pycocotools"])
def test_the_metrics_equal_those_of_detectron2s_evaluator(register, tmp_path, library):
    content, entries = random_set(1)
    for annotation in content["annotations"]:
        annotation.setdefault("iscrowd", 0)
    register(content | {"info": {}}, "coco")
    detections = [
        (entry["image_id"], CLASSES[entry["category_id"]], entry["bbox"], entry["score"])
        for entry in entries
    ]
    detectron2 = COCOEvaluator(NAME, output_dir=str(tmp_path), max_dets_per_image=11)
    evaluator_with_library = DetectionEvaluator(NAME, library=library, max_dets_per_image=11)
    results = []
    for evaluator in (detectron2, evaluator_with_library):
        evaluator.reset()
        feed(evaluator, detections, images=range(1, 31), masks=True)
        results.append(evaluator.evaluate())
    assert list(results[0]) == list(results[1]) == ["bbox", "segm"]
    for task, metrics in results[0].items():
        # Detectron2 has no LRP.
        common_metrics = {
            k: v for k, v in results[1][task].items() if not k.startswith(("oLRP", "thresh"))
        }
        assert list(common_metrics) == list(metrics)
        assert common_metrics == pytest.approx(metrics, abs=1e-9, nan_ok=True)


def test_no_images_no_annotations_and_no_detections_are_distinguished(register, caplog, tmp_path):
    content = ground_truth((1, A, BOX))
    register(content)
    evaluator = DetectionEvaluator(NAME)
    with caplog.at_level(logging.WARNING):
        assert evaluator.evaluate() == {}
    assert "There are no images to evaluate" in caplog.text
    feed(evaluator, [])
    assert evaluator.evaluate()["bbox"]["AP"] == 0
    del content["annotations"]
    MetadataCatalog.pop(NAME)
    register(content)
    evaluator = DetectionEvaluator(NAME, output_dir=str(tmp_path / "test"))
    feed(evaluator, DETECTIONS)
    assert evaluator.evaluate() == {}
    assert len(json.loads((tmp_path / "test/lvis_instances_results.json").read_text())) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["keypoints"]}, "tasks: expected bbox or segm, got keypoints"),
        ({"library": "lvis"}, "library: expected one of faster-coco-eval, pycocotools"),
        ({"library": "pycocotools"}, "LVIS's rules need faster-coco-eval"),
        (
            {"max_dets_per_image": 0},
            "max_dets_per_image: expected an integer from 1 to .*, got 0",
        ),
        ({"max_dets_per_image": -1}, "max_dets_per_image: expected .*, got -1"),
    ],
)
def test_invalid_arguments_raise_user_error(register, options, message):
    register(ground_truth((1, A, BOX)))
    with pytest.raises(UserError, match=message):
        DetectionEvaluator(NAME, **options)


def test_detections_or_files_that_do_not_match_the_data_set_raise_an_error(register, tmp_path):
    register(ground_truth((1, A, BOX)), thing_colors=None)
    evaluator = DetectionEvaluator(NAME)
    with pytest.raises(ValueError, match="image 1: expected classes 0 to 3 .*, got class 4"):
        feed(evaluator, [(1, 4, BOX, 0.5)])
    for unknown in (3, "1"):
        with pytest.raises(UserError, match=f"'{NAME}' has no image {unknown!r}"):
            feed(evaluator, [], images=[unknown])
    MetadataCatalog.pop(NAME)
    path = write(tmp_path / "gt.json", ground_truth((1, A, BOX)))
    for names, ids, message in (
        (["one"], CLASSES, "has 4 categories, but the data set has 1 class"),
        (["one"], {77: 0}, "has no category 77"),
    ):
        metadata = MetadataCatalog.get(NAME)
        metadata.set(json_file=path, thing_classes=names, thing_dataset_id_to_contiguous_id=ids)
        with pytest.raises(UserError, match=message):
            DetectionEvaluator(NAME)
        MetadataCatalog.remove(NAME)


def test_the_log_names_the_maximum_number_of_detections(register, caplog):
    for kind, expected in (
        ("lvis", "bbox, at most 300 detections of all classes per image"),
        ("coco", "bbox, at most 100 detections of each class per image"),
    ):
        MetadataCatalog.pop(NAME, None)
        register(ground_truth((1, A, BOX)), kind)
        evaluator = DetectionEvaluator(NAME)
        feed(evaluator, DETECTIONS)
        with caplog.at_level(logging.INFO):
            evaluator.evaluate()
        assert expected in caplog.text


def test_the_masks_of_the_ground_truth_are_validated_before_inference(register):
    broken_mask = {"segmentation": {"size": [SIDE, SIDE], "counts": "no RLE"}}
    register(ground_truth((1, A, BOX, broken_mask)))
    with pytest.raises(UserError, match="no annotation has a valid 'segmentation'"):
        DetectionEvaluator(NAME, tasks=["segm"])
    evaluator = DetectionEvaluator(NAME, tasks=["bbox"])
    feed(evaluator, [(1, 0, BOX, 0.5)])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    MetadataCatalog.pop(NAME)
    register(ground_truth((1, A, BOX), (1, B, FAR, broken_mask)))
    evaluator = DetectionEvaluator(NAME)
    feed(evaluator, [(1, 0, BOX, 0.5), (1, 1, FAR, 0.5)], masks=True)
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP"] == pytest.approx(50)  # no mask matches the object without one


def test_a_data_set_that_is_read_without_masks_is_evaluated_on_boxes_only(register, caplog):
    register(ground_truth((1, A, BOX)), read_options=ReadOptions())
    evaluator = DetectionEvaluator(NAME)
    feed(evaluator, [(1, 0, BOX, 0.5)], masks=True)
    assert list(evaluator.evaluate()) == ["bbox"]
    assert "The data set has no masks: only boxes are evaluated" in caplog.text


def test_results_have_the_image_ids_of_the_annotation_file(register, tmp_path):
    content = ground_truth((1, A, BOX), (2, B, FAR))
    names = {1: "6f9619ff-8b86", 2: "2"}
    for image in content["images"]:
        image["id"] = names[image["id"]]
    for annotation in content["annotations"]:
        annotation["image_id"] = names[annotation["image_id"]]
    register(content)
    evaluator = DetectionEvaluator(NAME, output_dir=str(tmp_path / "out"))
    detections = [("6f9619ff-8b86", 0, BOX, 0.5), (2, 1, FAR, 0.5)]
    feed(evaluator, detections, images=("6f9619ff-8b86", 2), masks=True)
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == results["segm"]["AP"] == pytest.approx(100)
    written = json.loads((tmp_path / "out" / "lvis_instances_results.json").read_text())
    assert [result["image_id"] for result in written] == ["6f9619ff-8b86", 2]


def test_faulty_ground_truth_objects_are_left_out_and_the_fault_limit_holds(register):
    flat = [(1, B, [5, 5, 0, 9])] * 11
    register(ground_truth((1, A, BOX), *flat[:10]))
    evaluator = DetectionEvaluator(NAME)
    feed(evaluator, [(1, 0, BOX, 0.5)])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    for options, message in (
        ({}, "11 faults"),
        ({"strict": True}, "--strict refuses this"),
    ):
        MetadataCatalog.pop(NAME)
        register(ground_truth((1, A, BOX), *flat), read_options=ReadOptions(**options))
        with pytest.raises(UserError, match=message):
            DetectionEvaluator(NAME)


def evaluate_in_process(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    evaluator = DetectionEvaluator(NAME)
    feed(evaluator, DETECTIONS, images=[rank + 1], masks=True)
    results = evaluator.evaluate()
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump({task: metrics["AP"] for task, metrics in results.items()}, file)
    distributed.destroy_process_group()


def test_the_main_process_evaluates_the_detections_of_all_processes(register, tmp_path):
    register(ground_truth((1, A, BOX), (2, A, FAR)))
    # Fork, because importing Detectron2 again takes longer than all tests in this file.
    method = "spawn" if torch.cuda.is_available() else "fork"
    if method == "spawn":
        pytest.skip("the data set is registered in this process only")
    multiprocessing.start_processes(
        evaluate_in_process, (str(tmp_path),), nprocs=2, start_method=method
    )
    main_results, other_results = (
        json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)
    )
    assert other_results == {} and main_results == pytest.approx({"bbox": 100, "segm": 100})
