"""Registered LVIS data sets: a few images with the names and ids of the real files."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from ranking_det.data.catalog import register_lvis
from ranking_det.data.coco_json.image_files import candidates
from ranking_det.user_errors import UserError
from tests.cases import call_main, run_function

SQUARE = [[4, 4, 20, 4, 20, 16, 4, 16]]
OBJECT = {"id": 5, "image_id": 1, "category_id": 7, "bbox": [4, 4, 16, 12]}
COCO_URL = "http://images.cocodataset.org"
FEDERATED = {"neg_category_ids": [9], "not_exhaustive_category_ids": []}


def categories(version):
    names = MetadataCatalog.get(f"ranking_lvis_{version}_train").thing_classes
    return [
        {"id": k + 1, "name": f"{name} {k}", "frequency": "f", "image_count": 2}
        for k, name in enumerate(names)
    ]


def images(version):
    """Return image 1 in the train folder and image 2 in the val folder, for either split."""
    size = {"width": 32, "height": 24, **FEDERATED}
    if version == "v1":
        urls = [f"{COCO_URL}/{part}2017/{i:012}.jpg" for i, part in ((1, "train"), (2, "val"))]
        return [{"id": i + 1, "coco_url": url, **size} for i, url in enumerate(urls)]
    return [{"id": i, "file_name": f"COCO_val2014_{i:012}.jpg", **size} for i in (1, 2)]


def write(root, version, split="train", **changes):
    annotations = [
        {"id": i, "image_id": i, "category_id": 7, "bbox": [4, 4, 16, 12], "area": 192.0}
        | {"segmentation": SQUARE}
        for i in (1, 2)
    ]
    content = {"categories": categories(version), "images": images(version)}
    content |= {"annotations": annotations, **changes}
    path = root / "lvis" / f"lvis_{version}_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    for i, part in ((1, "train2017"), (2, "val2017")):
        (folder / part).mkdir()
        Image.fromarray(np.full((24, 32, 3), 90, np.uint8)).save(folder / part / f"{i:012}.jpg")
    return folder


@pytest.fixture
def root(tmp_path, image_folder):
    (tmp_path / "coco").symlink_to(image_folder)
    register_lvis(tmp_path)
    yield tmp_path
    register_lvis()


@pytest.mark.parametrize(("version", "count"), [("v1", 1203), ("v0.5", 1230)])
def test_images_are_found_in_either_folder_by_url_or_coco_2014_name(root, version, count):
    write(root, version)
    name = f"ranking_lvis_{version}_train"
    records = DatasetCatalog.get(name)
    paths = [Path(record["file_name"]).relative_to(root / "coco") for record in records]
    assert [path.as_posix() for path in paths] == [
        "train2017/000000000001.jpg",
        "val2017/000000000002.jpg",
    ]
    assert records[0]["annotations"][0]["category_id"] == 6
    assert records[0]["neg_category_ids"] == [9]
    metadata = MetadataCatalog.get(name)
    assert metadata.evaluator_type == "lvis" and len(metadata.thing_classes) == count
    assert metadata.class_image_count[1] == {"id": 2, "image_count": 2}


def test_only_coco_2014_file_names_are_translated_to_those_of_2017():
    assert candidates({"file_name": "COCO_mine_000000000001.jpg"}) == ["COCO_mine_000000000001.jpg"]
    old = candidates({"file_name": "COCO_train2014_000000000001.jpg"})
    assert old[1:3] == ["train2017/000000000001.jpg", "val2017/000000000001.jpg"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            lambda: {"categories": categories("v0.5")},
            r"has 1,230 categories with ids from 1 to 1230, but the data set "
            r"'ranking_lvis_v1_train' has 1,203 with 1 to 1203",
        ),
        (
            lambda: {"images": [{k: v for k, v in images("v1")[0].items() if k != "coco_url"}]},
            "image 1 .*: has neither 'file_name' nor LVIS's 'coco_url'",
        ),
        (
            lambda: {"images": [{"id": 1, "file_name": "1.jpg", "width": 32, "height": 24}]},
            "has no 'neg_category_ids'",
        ),
        (
            lambda: {"images": [images("v1")[0] | {"coco_url": f"{COCO_URL}/val2017/3.jpg"}]},
            "no image file at .*coco/val2017/3.jpg",
        ),
        (lambda: {"categories": []}, "'categories' is empty"),
        (
            lambda: {"annotations": [OBJECT | {"category_id": 1300}]},
            r"lvis_v1_train.json: annotation 5 \(annotations\[0\]\): 'category_id': .* got 1300",
        ),
        (
            lambda: {"annotations": [OBJECT | {"image_id": 9}]},
            "annotation 5 .*'image_id': expected the id of an image in the file, got 9",
        ),
        (lambda: {"annotations": [{"id": 5}]}, "2 faults .*\n.*annotation 5 .*has no 'image_id'"),
    ],
)
def test_a_file_that_does_not_match_the_registered_data_set_raises_user_error(
    root, changes, message
):
    write(root, "v1", **changes())
    with pytest.raises(UserError, match=message):
        DatasetCatalog.get("ranking_lvis_v1_train")


def test_the_error_names_a_missing_file_or_folder(root):
    with pytest.raises(UserError, match="lvis_v1_val.json' does not exist"):
        DatasetCatalog.get("ranking_lvis_v1_val")
    write(root, "v1")
    (root / "coco").unlink()
    with pytest.raises(UserError, match="image folder .*coco' does not exist"):
        DatasetCatalog.get("ranking_lvis_v1_train")


MASK_CONFIG = "configs/shapes/quick/mask_rs.py"
LVIS_OVERRIDES = [
    *("dataloader.train.dataset.names=ranking_lvis_v1_train", "model.roi_heads.num_classes=1203"),
    *("dataloader.test.dataset.names=ranking_lvis_v1_val", "train.device=cpu", "train.epochs=1"),
    *("dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0"),
    "dataloader.test.num_workers=0",
]


def test_the_command_line_trains_on_unusual_masks_and_rejects_a_wrong_number_of_classes(
    root, tmp_path
):
    """All runs share one process, because starting one takes seconds."""
    rle = {"size": [24, 32], "counts": [100, 200, 468]}
    masks = [SQUARE, rle, [[1, 1, 5, 5]], [[3, 3, 3, 3, 3, 3]], []]
    annotations = [
        {"id": i, "image_id": 1 + i % 2, "category_id": 7 + i, "bbox": [4, 4, 16, 12], "area": 9.0}
        | {"segmentation": mask}
        for i, mask in enumerate(masks, start=1)
    ]
    write(root, "v1", annotations=annotations)
    write(root, "v0.5", annotations=[{**annotations[0], "segmentation": []}])
    for version in ("v1", "v0.5"):
        write(root, version, split="val")
    with_masks = [
        "--config-file",
        MASK_CONFIG,
        *LVIS_OVERRIDES,
        f"train.output_dir={tmp_path / 'out'}",
    ]
    wrong_classes = [
        *with_masks,
        LVIS_OVERRIDES[0].replace("v1", "v0.5"),
        f"train.output_dir={tmp_path / 'other'}",
    ]
    boxes_only = [
        *wrong_classes,
        LVIS_OVERRIDES[2].replace("v1", "v0.5"),
        "model.roi_heads.num_classes=1230",
    ]
    runs = [with_masks, wrong_classes, boxes_only]
    environment = os.environ | {"DETECTRON2_DATASETS": str(root)}
    process = run_function(call_main, runs, environment=environment)
    assert process.value == [0, 2, 2], process.stdout[-2000:] + process.stderr[-3000:]
    errors = [line for line in process.stderr.splitlines() if "ranking_lvis" in line]
    expected = "expected 1230, the number of classes of the data set 'ranking_lvis_v0.5_train'"
    assert f"num_classes: {expected}, got 1203" in errors[0]
    assert "expected masks, got only boxes; the config trains masks" in errors[1]
    assert (tmp_path / "out" / "model_final.pth").is_file()
