"""Fuzzing: random damage to an annotation file raises a UserError or is reported."""

import copy
import json
import random
import tempfile
from collections import Counter
from pathlib import Path

import hypothesis.strategies as st
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as mask_util

from ranking_det.data.catalog import load_set, register_annotations
from ranking_det.data.coco_json.faults import LEFT_OUT
from ranking_det.data.coco_json.reader import ReadOptions, read_annotations, summarize
from ranking_det.data.coco_json.results import read_results
from ranking_det.evaluation import average_precision
from ranking_det.evaluation.ground_truth import read_ground_truth
from ranking_det.user_errors import UserError
from tests.data.cases import EXAMPLES, fuzz, valid_content

NAME = "fuzzed_in_a_test"
VALUES = [
    *(None, True, False, 0, 1, -1, 2, 5, 11, 12.0, 0.5, 1e30, 1e400, float("nan"), 10**400, 2**63),
    *("", " ", "5", "11", "x", "nan", "1e5", "\ud800", "../x", "a\0b", "%2e%2e/x", "C:\\x"),
    *([], {}, [[]], [1], [1, 2, 3, 4], ["1", "2", "3", "4"], [[1, 1, 9, 1, 9, 9]], [[1, 1]]),
    *({"size": [30, 40], "counts": [0, 6, 1194]}, {"size": [30, 40], "counts": "x"}, {"size": 3}),
]


def value_paths(value, path=()):
    """Yield the path of every value in a JSON."""
    yield path
    if isinstance(value, (dict, list)):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from value_paths(child, (*path, key))


def damage(content, path, kind, value, seed):
    """Drop, replace, retype, repeat or reorder the value at a path, in place."""
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    key = path[-1]
    if kind == "drop":
        del parent[key]
    elif kind == "replace":
        parent[key] = copy.deepcopy(value)
    elif kind == "retype":
        old = parent[key]
        as_type = random.Random(seed).choice([str, float, lambda v: [v], lambda v: {"id": v}])
        try:
            parent[key] = as_type(old)
        except (TypeError, ValueError, OverflowError):
            parent[key] = [old]
    elif kind == "repeat" and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    elif kind == "reorder":
        target = parent[key] if isinstance(parent[key], (list, dict)) else parent
        if isinstance(target, list):
            random.Random(seed).shuffle(target)
        else:
            items = list(target.items())
            random.Random(seed).shuffle(items)
            target.clear()
            target.update(items)


@st.composite
def damaged(draw, original):
    """Draw a copy of a JSON with damage in one to three places."""
    content = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        paths = [path for path in value_paths(content) if path]
        if paths:
            kind = draw(st.sampled_from(["drop", "replace", "retype", "repeat", "reorder"]))
            value, seed = draw(st.sampled_from(VALUES)), draw(st.integers(0, 99))
            damage(content, draw(st.sampled_from(paths)), kind, value, seed)
    return content


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as path:
        (Path(path) / "images").mkdir()
        for i in (11, 12, 13):
            (Path(path) / "images" / f"{i}.png").touch()
        yield Path(path)
    for catalog in (DatasetCatalog, MetadataCatalog):
        if NAME in catalog:
            catalog.remove(NAME)


def read(folder, content, options):
    """Read a file as the command line does; return (None, None) if a UserError rejects it."""
    path = folder / "own.json"
    path.write_text(json.dumps(content))
    try:
        annotations = read_annotations(path, folder / "images", options, needs_objects=True)
    except UserError as error:
        assert str(error)
        return None, None
    return annotations, summarize(annotations, options)


OPTIONS = st.builds(
    ReadOptions,
    strict=st.booleans(),
    crowds_are_objects=st.booleans(),
    masks=st.booleans(),
    max_headers=st.just(0),
)


@EXAMPLES
def test_training_gets_exactly_the_objects_that_the_summary_counts(folder, examples):
    def check(content, options):
        annotations, summary = read(folder, content, options)
        if summary is None:
            return
        register_annotations(NAME, folder / "images", summary)
        records = load_set(NAME)
        objects = [annotation for record in records for annotation in record["annotations"]]
        crowds = sum(annotation.get("iscrowd", 0) for annotation in objects)
        assert summary.num_images == len(records) == len(content["images"])
        assert summary.num_objects == len(objects) - crowds > 0 and summary.num_crowds == crowds
        given_objects = len(content["annotations"])
        assert given_objects == len(objects) + annotations.faults.total(LEFT_OUT)
        if options.strict:
            assert given_objects == len(objects)
        masks = Counter("segmentation" in a for a in objects if not a.get("iscrowd"))
        assert summary.num_masks == masks[True]
        for record in records:
            for annotation in record["annotations"]:
                x, y, width, height = annotation["bbox"]
                assert width > 0 and height > 0 and 0 <= annotation["category_id"] < 3
                assert -1 <= x and x + width <= record["width"] + 1
                assert -1 <= y and y + height <= record["height"] + 1

    fuzz(examples, check, damaged(valid_content()) | damaged(valid_content(lvis=True)), OPTIONS)


@EXAMPLES
def test_evaluation_of_a_damaged_file_gives_metrics_or_a_user_error(folder, examples):
    def check(content, rules, masks, data):
        iou_type = "segm" if masks else "bbox"
        results = [{"image_id": 11, "category_id": 5, "score": 0.5, "bbox": [2, 2, 10, 10]}]
        if masks:
            rle = mask_util.frPyObjects({"size": [30, 40], "counts": [0, 6, 1194]}, 30, 40)
            results[0]["segmentation"] = {"size": [30, 40], "counts": rle["counts"].decode()}
        predictions = {
            "images": [{"id": 0, "file_name": "photos/11.png"}],
            "categories": [{"id": 0, "name": "dog"}],
            "annotations": [results[0] | {"image_id": 0, "category_id": 0}],
        }
        choices = st.just(results), damaged(results), damaged(predictions)
        results = data.draw(st.one_of(*choices))
        (folder / "gt.json").write_text(json.dumps(content))
        (folder / "results.json").write_text(json.dumps(results))
        try:
            truth, _ = read_ground_truth(str(folder / "gt.json"), rules, iou_type)
            detections = read_results(str(folder / "results.json"), truth, iou_type)
        except UserError as error:
            assert str(error)
            return
        metrics = average_precision(truth, detections, iou_type, rules=rules)
        assert not 100 < metrics["AP"] and not metrics["AP"] < 0

    formats = st.sampled_from(["coco", "lvis"])
    fuzz(examples, check, damaged(valid_content(lvis=True)), formats, st.booleans(), st.data())
