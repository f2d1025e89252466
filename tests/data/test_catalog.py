"""Registered shapes data sets, and the federated annotation of the LVIS variant."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.structures import BoxMode

from ranking_det.data.catalog import prepare_registered, register_shapes
from ranking_det.data.shapes import prepare_shapes
from ranking_det.data.shapes.lvis import (
    class_probabilities,
    federate,
    frequency_group,
    long_tailed_categories,
)

NAMES = ("shapes_train", "shapes_val", "shapes_lvis_train", "shapes_lvis_val")
SPLITS = ("train", "val")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Generate small sets of both variants and register the four names there."""
    root = tmp_path_factory.mktemp("datasets")
    prepare_shapes(root, train=10, val=4, size=64)
    prepare_shapes(root, variant="shapes_lvis", train=110, val=30, size=64)
    register_shapes(root)
    yield root
    register_shapes()


@pytest.fixture(scope="module")
def lvis(root):
    return {s: read(root / "shapes_lvis/annotations" / f"instances_{s}.json") for s in SPLITS}


def read(path):
    return json.loads(Path(path).read_text())


def test_importing_the_package_registers_the_sets_and_registering_again_changes_their_folder(
    tmp_path, root
):
    assert all(name in DatasetCatalog for name in NAMES)
    try:
        for _ in range(2):
            register_shapes(tmp_path)
            json_file = tmp_path / "shapes" / "annotations" / "instances_val.json"
            assert MetadataCatalog.get("shapes_val").json_file == str(json_file)
        assert not list(tmp_path.iterdir())
    finally:
        register_shapes(root)


def test_the_error_for_a_missing_set_names_the_command_that_generates_it(tmp_path, root):
    register_shapes(tmp_path)
    try:
        with pytest.raises(FileNotFoundError) as caught:
            DatasetCatalog.get("shapes_lvis_val")
        command = f"python -m ranking_det.data.shapes --root {tmp_path} --variant shapes_lvis"
        assert command in str(caught.value) and "\n" not in str(caught.value)
    finally:
        register_shapes(root)


def test_only_missing_shapes_sets_are_generated(tmp_path, root, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "ranking_det.data.catalog.prepare_shapes", lambda root, **kw: calls.append((root, kw))
    )
    prepare_registered(["coco_2017_train", "shapes_lvis_val"])
    assert calls == [(root, {"variant": "shapes_lvis"})]


@pytest.mark.parametrize("name", NAMES)
def test_metadata_is_complete_before_and_after_loading(root, name):
    metadata = MetadataCatalog.get(name)
    before = metadata.as_dict()
    assert len(before["thing_classes"]) == (98 if "lvis" in name else 12)
    assert before["evaluator_type"] == ("lvis" if "lvis" in name else "coco")
    assert Path(before["json_file"]).is_file() and Path(before["image_root"]).is_dir()
    DatasetCatalog.get(name)
    after = metadata.as_dict()
    assert all(after[key] == value for key, value in before.items())


@pytest.mark.parametrize("name", NAMES)
def test_the_dataset_dicts_have_detectron2s_format(root, name):
    classes = MetadataCatalog.get(name).thing_classes
    records = DatasetCatalog.get(name)
    assert records
    for record in records:
        assert Path(record["file_name"]).is_file()
        assert record["height"] == record["width"] == 64
        for annotation in record["annotations"]:
            assert 0 <= annotation["category_id"] < len(classes)
            assert annotation["bbox_mode"] == BoxMode.XYWH_ABS
            assert annotation["segmentation"]
    assert [r["image_id"] for r in records] == sorted(r["image_id"] for r in records)


@pytest.mark.parametrize("name", ["shapes_train", "shapes_lvis_train"])
def test_detectron2_maps_the_dicts_to_images_boxes_and_masks(root, name):
    mapper = DatasetMapper(
        is_train=True,
        augmentations=[],
        image_format="RGB",
        use_instance_mask=True,
    )
    for record in get_detection_dataset_dicts(name, filter_empty=True)[:10]:
        mapped = mapper(record)
        expected = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
        assert len(mapped["instances"]) == len(expected) > 0
        assert len(mapped["instances"].gt_masks) == len(expected)


def test_detectron2_loads_the_validation_images_in_order(root):
    loader = build_detection_test_loader(
        dataset=get_detection_dataset_dicts("shapes_val", filter_empty=False),
        mapper=DatasetMapper(is_train=False, augmentations=[], image_format="RGB"),
    )
    batches = list(loader)
    assert [b[0]["image_id"] for b in batches] == [1, 2, 3, 4]
    assert batches[0][0]["image"].shape == (3, 64, 64)


def test_federated_fields_are_consistent(lvis):
    for split in SPLITS:
        present = defaultdict(set)
        for annotation in lvis[split]["annotations"]:
            assert "iscrowd" not in annotation
            present[annotation["image_id"]].add(annotation["category_id"])
        for image in lvis[split]["images"]:
            negative = set(image["neg_category_ids"])
            assert len(negative) == len(image["neg_category_ids"]) >= 4
            assert not negative & present[image["id"]] and negative <= set(range(1, 99))
            assert set(image["not_exhaustive_category_ids"]) <= present[image["id"]]
            assert image["coco_url"].endswith(f"{split}/{image['file_name']}")
    assert any(image["not_exhaustive_category_ids"] for image in lvis["train"]["images"])


def test_frequencies_follow_the_counts_over_the_training_images(lvis):
    categories = lvis["train"]["categories"]
    assert categories == lvis["val"]["categories"]
    assert [c["id"] for c in categories] == list(range(1, 99))
    annotations = lvis["train"]["annotations"]
    instances = Counter(a["category_id"] for a in annotations)
    images = Counter(c for c, _ in {(a["category_id"], a["image_id"]) for a in annotations})
    for category in categories:
        assert category["instance_count"] == instances[category["id"]]
        assert category["image_count"] == images[category["id"]]
        assert category["frequency"] == frequency_group(images[category["id"]], 110)
        assert category["synset"] and category["def"] and category["synonyms"]
    assert {c["frequency"] for c in categories} == {"r", "c", "f"}
    assert min(c["image_count"] for c in categories) >= 1


def test_the_frequency_thresholds_are_inclusive_as_in_lvis():
    groups = [frequency_group(count, 1000) for count in (1, 10, 11, 30, 31)]
    assert groups == ["r", "r", "c", "c", "f"]


def test_classes_are_long_tailed_and_sorted_by_name():
    names = [category.name for category in long_tailed_categories()]
    assert len(set(names)) == 98 and names == sorted(names)
    probabilities = class_probabilities(98)
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities.max() > 100 * probabilities.min()


def test_federation_omits_some_categories_and_annotates_the_forced_one_exhaustively():
    objects = [{"category_id": c} for c in (1, 1, 1, 2, 2, 3, 4, 5, 6)]
    unknown = not_exhaustive = 0
    for seed in range(200):
        annotated, fields = federate(objects, 20, 1, np.random.default_rng(seed))
        counts = Counter(item["category_id"] for item in annotated)
        assert counts[1] == 3 and 1 not in fields["not_exhaustive_category_ids"]
        assert all(c > 6 for c in fields["neg_category_ids"])
        unknown += 6 - len(counts)
        not_exhaustive += len(fields["not_exhaustive_category_ids"])
        assert (counts[2] == 1) == (fields["not_exhaustive_category_ids"] == [2])
    assert 50 < unknown < 160 and 10 < not_exhaustive < 60
