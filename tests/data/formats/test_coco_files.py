"""COCO JSON in the folders of annotation tools: next to the images or in another folder."""

import pytest

from ranking_det.data.convert import main
from ranking_det.data.formats.sources import convert, find_source
from ranking_det.user_errors import UserError
from tests.data.formats import cases


def coco_layout(root, folder, json_file):
    """Write two images to a folder and their COCO JSON to a file."""
    for name in ("a.jpg", "b.jpg"):
        cases.make_image(root / folder / name)
    cases.write_json(root / json_file, cases.coco_content(["a.jpg", "b.jpg"]))


def test_json_files_are_found_next_to_the_images_of_each_split(tmp_path):
    root = cases.coco_set(tmp_path, ("train", "valid", "test"))
    source = find_source(str(root))
    assert source.splits == {"train": 2, "val": 2, "test": 2}
    converted = convert(source, "val")
    assert converted.json_file == str(root / "valid" / "_annotations.coco.json")
    assert converted.image_root == str(root / "valid")


@pytest.mark.parametrize(
    ("folder", "json_file", "split"),
    [
        (".", "annotations.json", "all"),
        ("images", "labels.json", "all"),
        ("images", "annotations/instances_default.json", "all"),
        ("images/Train", "annotations/instances_Train.json", "train"),
        ("train2017", "annotations/instances_train2017.json", "train"),
        ("images/val", "annotations/val.json", "val"),
        ("some images", "annotations/x.json", "all"),
        ("valid", "valid/labels.json", "val"),
    ],
)
def test_images_are_found_in_the_folders_of_common_exports(tmp_path, folder, json_file, split):
    coco_layout(tmp_path, folder, json_file)
    for path in (tmp_path, tmp_path / json_file):
        source = find_source(str(path))
        converted = convert(source, next(iter(source.splits)))
        assert converted.image_root.rstrip("/.") == str(tmp_path / folder)
    assert find_source(str(tmp_path)).splits == {split: 2}


def test_captions_panoptic_and_keypoint_files_are_skipped(tmp_path):
    coco_layout(tmp_path, "val2017", "annotations/instances_val2017.json")
    images = cases.coco_content(["a.jpg"])["images"]
    captions = {"images": images, "annotations": [{"id": 1, "image_id": 0, "caption": "a"}]}
    cases.write_json(tmp_path / "annotations" / "captions_val2017.json", captions)
    panoptic = {"images": images, "categories": [], "annotations": [{"segments_info": []}]}
    cases.write_json(tmp_path / "annotations" / "panoptic_val2017.json", panoptic)
    keypoints = cases.coco_content(["a.jpg"])
    cases.write_json(tmp_path / "annotations" / "person_keypoints_val2017.json", keypoints)
    source = find_source(str(tmp_path))
    assert source.splits == {"val": 2}


def test_two_files_of_one_split_raise_user_error(tmp_path):
    coco_layout(tmp_path, ".", "a_train.json")
    coco_layout(tmp_path, ".", "b_train.json")
    with pytest.raises(UserError, match=r"several COCO files of train images \(a_train.json, b_tr"):
        find_source(str(tmp_path))


def test_a_file_without_a_folder_of_its_images_raises_user_error(tmp_path):
    cases.write_json(tmp_path / "a.json", cases.coco_content(["a.jpg"]))
    with pytest.raises(UserError, match=r"no folder has its images \('a.jpg'\); looked in"):
        find_source(str(tmp_path))


def test_a_root_category_without_annotations_is_not_a_class(tmp_path):
    cases.make_image(tmp_path / "a.jpg")
    content = cases.coco_content(["a.jpg"])
    for category in content["categories"]:
        category["supercategory"] = "animals"
    content["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
    cases.write_json(tmp_path / "a.json", content)
    assert find_source(str(tmp_path)).classes == ["cat", "dog"]


def test_broken_json_raises_user_error(tmp_path):
    path = cases.write_text(tmp_path / "a.json", "{")
    with pytest.raises(UserError, match="invalid JSON"):
        find_source(str(path))


@pytest.mark.parametrize(
    "name", ["images\\a.jpg", "images/A.JPG", "images/a.png", "images/cafe\u0301.jpg"]
)
def test_images_are_found_despite_other_separators_case_extension_or_unicode_form(tmp_path, name):
    root, file = tmp_path / "in", "caf\u00e9.jpg" if "caf" in name else "a.jpg"
    cases.make_image(root / "images" / file)
    cases.write_json(root / "a.json", cases.coco_content([name]))
    source = find_source(str(root))
    assert convert(source, "all").image_root == str(root)
    for target in ("coco", "yolo"):
        output = tmp_path / target
        assert main([str(root), "--output", str(output), "--to", target]) == 0
        assert len(list(output.rglob("*.jpg"))) == 1


def test_a_broken_file_of_one_split_raises_user_error_instead_of_being_skipped(tmp_path):
    root = cases.coco_set(tmp_path)
    (root / "valid" / "_annotations.coco.json").write_text("")
    with pytest.raises(UserError, match="valid/_annotations.coco.json: invalid JSON.*; correct"):
        find_source(str(root))
