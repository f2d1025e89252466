"""Each annotation file is parsed once; all readers share the content and do not change it."""

import copy
import json
import os
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from PIL import Image

from ranking_det.data.catalog import read_registered, register_annotations, release_sets
from ranking_det.data.coco_json import reader
from ranking_det.data.coco_json.reader import ReadOptions, read_annotations, release_annotations
from ranking_det.engine.evaluate import write_per_class
from ranking_det.evaluation import DetectionEvaluator
from ranking_det.user_errors import UserError
from tests.data.cases import perfect_detections, read_summary, valid_content

NAME = "parsed_once_in_a_test"
FORMATS = pytest.mark.parametrize("lvis", [False, True], ids=["coco", "lvis"])


@pytest.fixture
def write(tmp_path):
    """Return a function that writes an annotation file, last modified `age` seconds ago.

    It also creates the images, and returns the paths of the file and of the images' folder.
    """

    def write_files(content, age=3600.0):
        path, images = tmp_path / "own.json", tmp_path / "images"
        path.write_text(json.dumps(content))
        os.utime(path, (time.time() - age,) * 2)
        images.mkdir(exist_ok=True)
        for i in (11, 12, 13):
            Image.new("RGB", (40, 30)).save(images / f"{i}.png")
        return str(path), str(images)

    yield write_files
    release_annotations(str(tmp_path / "own.json"))
    for catalog in (DatasetCatalog, MetadataCatalog):
        if NAME in catalog:
            catalog.remove(NAME)


@pytest.fixture
def parse_counts(monkeypatch):
    """Count how often each file is parsed."""
    counts, load_json = Counter(), reader.load_json

    def load(path, what):
        counts[path] += 1
        return load_json(path, what)

    monkeypatch.setattr(reader, "load_json", load)
    return counts


def evaluate():
    """Evaluate perfect boxes and empty masks; return the metrics."""
    evaluator = DetectionEvaluator(NAME)
    for record in DatasetCatalog.get(NAME):
        instances = perfect_detections(record)
        instances.pred_masks = torch.zeros(len(instances), *instances.image_size, dtype=torch.bool)
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()


@FORMATS
def test_a_run_parses_each_file_once_and_does_not_change_the_content(
    write, parse_counts, tmp_path, lvis
):
    path, images = write(valid_content(lvis))
    register_annotations(NAME, images, read_summary(path, images))
    before = copy.deepcopy(read_registered(NAME).content)
    for _ in range(2):  # two evaluations
        mapper = DatasetMapper(is_train=False, augmentations=[], image_format="RGB")
        records = get_detection_dataset_dicts(NAME, filter_empty=False)
        assert len(list(build_detection_test_loader(dataset=records, mapper=mapper))) == 3
        results = evaluate()
        assert results["bbox"]["AP"] == pytest.approx(100) and results["segm"]["AP"] == 0
        write_per_class(results, str(tmp_path), [NAME])
    assert parse_counts == {path: 1}
    assert read_registered(NAME).content == before


def test_changing_records_does_not_affect_other_readers(write):
    path, images = write(valid_content())
    register_annotations(NAME, images, read_summary(path, images))
    records = DatasetCatalog.get(NAME)
    before = copy.deepcopy(records)
    for record in records:
        record["image_id"] = -1
        for annotation in record.pop("annotations"):
            annotation.clear()
    assert DatasetCatalog.get(NAME) == before
    assert evaluate()["bbox"]["AP"] == pytest.approx(100)


def test_a_changed_file_is_parsed_and_validated_again(write, parse_counts):
    path, images = write(valid_content())
    register_annotations(NAME, images, read_summary(path, images))
    content = valid_content()
    content["annotations"][0]["image_id"] = 99  # the file keeps its length
    write(content, age=60.0)
    with pytest.raises(UserError, match="'image_id': expected the id of an image .*, got 99"):
        DatasetCatalog.get(NAME)
    os.remove(path)
    with pytest.raises(UserError, match="does not exist"):
        DatasetCatalog.get(NAME)
    assert parse_counts == {path: 3}


def test_a_file_that_was_just_written_is_parsed_again(write, parse_counts):
    path, _ = write(valid_content(), age=0.0)
    read_annotations(path)
    read_annotations(path)
    assert parse_counts == {path: 2}


def test_a_released_file_is_parsed_again(write, parse_counts):
    path, images = write(valid_content())
    register_annotations(NAME, images, read_summary(path, images))
    for count in (1, 2):
        assert len(DatasetCatalog.get(NAME)) == 3
        assert parse_counts == {path: count}
        release_sets([NAME])


def test_allow_outside_in_one_check_does_not_carry_over_to_another(write, tmp_path):
    content = valid_content()
    content["images"][0]["file_name"] = "../images/../11.png"
    path, images = write(content)
    os.rename(f"{images}/11.png", tmp_path / "11.png")
    register_annotations(NAME, images, read_summary(path, images, allow_outside=True))
    assert len(DatasetCatalog.get(NAME)) == 3
    register_annotations(NAME, images, replace(read_summary(path), options=ReadOptions()))
    with pytest.raises(UserError, match="1 of 3 images lies outside"):
        DatasetCatalog.get(NAME)
