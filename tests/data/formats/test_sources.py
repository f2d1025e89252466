"""Recognize the format of a data set by its files, and report it in one line."""

import pytest

from ranking_det.data.formats.file_tree import FileTree, split_of
from ranking_det.data.formats.sources import convert, find_source
from ranking_det.user_errors import UserError
from tests.data.formats import cases


def test_each_format_is_reported_in_one_line(tmp_path):
    cases.voc_set(tmp_path / "voc")
    cases.yolo_set(tmp_path / "yolo")
    cases.coco_set(tmp_path / "coco", per_split=1)
    region = cases.via_region({"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4}, kind="cat")
    cases.via_file(tmp_path / "via" / "via.json", [region])
    shape = ("cat", "polygon", [[1, 1], [9, 1], [9, 9]], None)
    cases.labelme_file(tmp_path / "labelme" / "1.json", [shape])
    lines = {name: find_source(str(tmp_path / name)).summary for name in ("voc", "yolo", "coco")}
    assert lines == {
        "voc": "found: Pascal VOC, 2 train and 2 val images, 2 classes",
        "yolo": "found: YOLO, 2 train and 2 val images, 2 classes",
        "coco": "found: COCO JSON, 1 train and 1 val images, 2 classes",
    }
    assert find_source(str(tmp_path / "via")).summary == "found: VIA, 1 image, 1 class"
    assert find_source(str(tmp_path / "labelme")).summary == "found: LabelMe, 1 image, 1 class"


def test_the_error_for_a_folder_without_annotations_counts_its_files(tmp_path):
    cases.make_image(tmp_path / "a.jpg")
    cases.write_text(tmp_path / "labels.csv", "a,b\n")
    with pytest.raises(UserError, match=r"no annotations; looked for Pascal VOC .*1 .jpg, 1 .csv"):
        find_source(str(tmp_path))


@pytest.mark.parametrize("name", ["notes.txt", "labels.csv"])
def test_a_file_in_an_unknown_format_raises_user_error(tmp_path, name):
    path = cases.write_text(tmp_path / name, "x")
    with pytest.raises(UserError, match="expected a folder, a data.yaml, or a COCO, VIA"):
        find_source(str(path))


def test_a_missing_folder_raises_user_error(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        find_source(str(tmp_path / "missing"))


def test_json_in_an_unknown_format_raises_user_error(tmp_path):
    cases.write_json(tmp_path / "a.json", {"project": {}, "config": {}, "metadata": {}, "view": {}})
    with pytest.raises(UserError, match="got other JSON"):
        find_source(str(tmp_path / "a.json"))


def test_annotations_in_two_formats_raise_user_error_unless_a_format_is_given(tmp_path):
    cases.voc_set(tmp_path)
    cases.write_text(tmp_path / "JPEGImages" / "0.txt", cases.yolo_line(0, (1, 2, 3, 4)))
    with pytest.raises(UserError, match=r"several formats \(Pascal VOC and YOLO\)"):
        find_source(str(tmp_path))
    assert find_source(str(tmp_path), format_name="voc").format == "Pascal VOC"
    assert find_source(str(tmp_path), format_name="yolo").format == "YOLO"


def test_images_are_found_in_the_parent_of_the_annotation_folder(tmp_path):
    cases.voc_set(tmp_path)
    source = find_source(str(tmp_path / "Annotations"))
    assert source.splits == {"all": 4}
    content, root, *_ = convert(source, "all")
    assert root == str(tmp_path / "JPEGImages")
    assert cases.objects_of(content) == cases.expected_objects("0.jpg", "1.jpg", "2.jpg", "3.jpg")


def test_image_names_are_relative_to_the_source(tmp_path):
    cases.voc_set(tmp_path / "söurce folder")
    source = find_source(str(tmp_path / "söurce folder"))
    converted = convert(source, "val")
    assert converted.image_root == str(tmp_path / "söurce folder")
    names = [image["file_name"] for image in converted.content["images"]]
    assert names == ["JPEGImages/2.jpg", "JPEGImages/3.jpg"]


def test_a_missing_split_raises_user_error(tmp_path):
    source = find_source(str(cases.voc_set(tmp_path)))
    with pytest.raises(UserError, match=r"has no test images \(it has train, val\)"):
        convert(source, "test")


def test_images_that_belong_to_no_split_are_reported(tmp_path):
    cases.coco_set(tmp_path)
    for split in ("train", "valid"):
        cases.write_text(tmp_path / split / f"{split}0.xml", cases.voc_text([("cat", 1, 2, 3, 4)]))
    cases.make_image(tmp_path / "a.jpg")
    cases.write_text(tmp_path / "a.xml", cases.voc_text([("cat", 1, 2, 3, 4)]))
    source = find_source(str(tmp_path), format_name="voc")
    assert source.splits == {"train": 1, "val": 1, "all": 1}
    assert "1 image that belongs to no split is not used" in source.lines


def test_a_class_folder_named_like_a_split_raises_user_error(tmp_path):
    for folder in ("train", "bus"):
        for i in range(11):
            cases.make_image(tmp_path / folder / f"{folder}{i}.jpg")
            text = cases.voc_text([(folder, 1, 2, 3, 4)])
            cases.write_text(tmp_path / folder / f"{folder}{i}.xml", text)
    with pytest.raises(UserError, match=r"11 annotated images, .* are in no folder of a split"):
        find_source(str(tmp_path))


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train", "train"),
        ("images/Valid", "val"),
        ("obj_train_data", "train"),
        ("instances_val2017.json", "val"),
        ("Testing", "test"),
        ("latest", None),
        ("trainers", None),
        ("", None),
    ],
)
def test_split_of_recognizes_the_split_in_a_folder_or_file_name(path, split):
    assert split_of(path) == split


@pytest.mark.parametrize(
    "name",
    [
        "a b.JPG",
        "sub\\a b.JPG",
        "C:\\Users\\me\\sub\\a b.jpg",
        "a%20b.JPG",
        "http://host/x/a%20b.jpg",
        "A B.png",
        "a b",
        "../elsewhere/a b.JPG",
    ],
)
def test_an_image_is_found_despite_another_folder_case_extension_or_url_encoding(tmp_path, name):
    path = cases.make_image(tmp_path / "sub" / "a b.JPG")
    assert FileTree(str(tmp_path)).find_image(name, str(tmp_path)) == str(path)


def test_a_composed_name_finds_a_file_with_a_decomposed_name(tmp_path):
    path = cases.make_image(tmp_path / "cafe\u0301.jpg")
    assert FileTree(str(tmp_path)).find_image("caf\u00e9.jpg", str(tmp_path)) == str(path)


def test_the_nearest_image_with_the_given_name_is_found_unless_two_are_equally_near(
    tmp_path,
):
    for folder in ("train/images", "val/images", "x", "y"):
        cases.make_image(tmp_path / folder / "1.jpg")
    tree = FileTree(str(tmp_path))
    nearest = tree.find_image("1.jpg", str(tmp_path / "val" / "labels"))
    assert nearest == str(tmp_path / "val/images/1.jpg")
    assert tree.find_image("1.jpg", str(tmp_path / "labels")) is None


def test_a_link_to_a_parent_folder_causes_no_endless_search(tmp_path):
    cases.voc_set(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert find_source(str(tmp_path)).splits == {"train": 2, "val": 2}


def test_hidden_files_are_skipped(tmp_path):
    cases.voc_set(tmp_path)
    cases.write_text(tmp_path / "Annotations" / "._0.xml", "\0")
    cases.write_text(tmp_path / "__MACOSX" / "0.xml", "\0")
    assert find_source(str(tmp_path)).faults.rows == []
