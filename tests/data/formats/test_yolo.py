"""Read YOLO data sets of boxes and polygons."""

import pytest

from ranking_det.data.coco_json.reader import ReadOptions
from ranking_det.data.formats.sources import convert, find_source
from ranking_det.user_errors import UserError
from tests.data.formats import cases


def one_image(root, text, names="cat\ndog\n", image="a.jpg"):
    cases.make_image(root / "images" / image)
    cases.write_text(root / "labels" / f"{image.rsplit('.', 1)[0]}.txt", text)
    if names:
        cases.write_text(root / "classes.txt", names)
    source = find_source(str(root))
    return convert(source, "all").content, source


@pytest.mark.parametrize(
    "description",
    [
        "train: images/train\nval: images/val\nnames: [cat, dog]\n",
        "train: ../images/train\nval: ../images/val\nnc: 2\nnames: ['cat', 'dog']\n",
        "path: /home/somebody/set\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n",
        "train: /content/set/images/train\nvalid: /content/set/images/val\nnames:\n- cat\n- dog\n",
        "train: [images/train]\nval: [images/val]\ntest:\nnames: {1: dog, 0: cat}\n",
        "path: .\ntrain: train.txt\nval: .\\images\\val\nnames: [cat, dog]\n",
    ],
)
def test_folders_and_classes_are_read_from_data_yaml(tmp_path, description):
    root = cases.yolo_set(tmp_path / "my set", description)
    cases.write_text(root / "train.txt", "images/train/train0.jpg\n./images/train/train1.jpg\n")
    for source in (find_source(str(root)), find_source(str(root / "data.yaml"))):
        assert source.splits == {"train": 2, "val": 2}
        content = convert(source, "train").content
        assert cases.objects_of(content) == cases.expected_objects("train0.jpg", "train1.jpg")


def test_folders_define_the_splits_without_data_yaml(tmp_path):
    root = cases.yolo_set(tmp_path, description=None)
    cases.write_text(root / "classes.txt", "cat\ndog\n")
    source = find_source(str(root))
    assert source.splits == {"train": 2, "val": 2}
    assert source.classes == ["cat", "dog"]


def test_images_and_labels_may_lie_below_the_split_folder(tmp_path):
    for split in ("train", "valid"):
        cases.make_image(tmp_path / split / "images" / "a.PNG")
        cases.write_text(tmp_path / split / "labels" / "a.txt", cases.yolo_line(0, (1, 2, 3, 4)))
    cases.write_text(tmp_path / "data.yaml", "train: x/train/images\nval: y/valid/images\nnc: 1\n")
    source = find_source(str(tmp_path))
    assert source.splits == {"train": 1, "val": 1}
    assert source.classes == ["class_0"]
    assert "no class names" in source.faults.remarks[0]


def test_labels_may_lie_next_to_the_images(tmp_path):
    cases.make_image(tmp_path / "obj_train_data" / "a.jpg")
    cases.write_text(tmp_path / "obj_train_data" / "a.txt", cases.yolo_line(1, (1, 2, 3, 4)))
    cases.write_text(tmp_path / "obj.names", "cat\ndog\n")
    source = find_source(str(tmp_path))
    assert source.splits == {"train": 1}
    assert cases.objects_of(convert(source, "train").content)[0][1:] == ("dog", (1, 2, 3, 4))


def test_labels_and_class_names_of_a_split_folder_are_found(tmp_path):
    root = cases.yolo_set(tmp_path)
    source = find_source(str(root / "images" / "train"))
    assert source.splits == {"all": 2}
    assert source.classes == ["cat", "dog"]


def test_lines_with_more_than_5_numbers_are_polygons(tmp_path):
    content, _ = one_image(tmp_path, "1 0.25 0.25 0.5 0.25 0.5 0.5\n")
    (annotation,) = content["annotations"]
    assert annotation["segmentation"] == [[16, 12, 32, 12, 32, 24]]
    assert annotation["bbox"] == [16, 12, 16, 12]
    assert annotation["area"] == 96


def test_a_path_that_leaves_the_folder_prefers_images_inside_and_needs_allow_outside(tmp_path):
    for name in ("inner", "."):
        cases.yolo_set(tmp_path / name, None)
    text = "train: ../images/train\nnames: [cat, dog]\n"
    cases.write_text(tmp_path / "inner" / "data.yaml", text)
    source = find_source(str(tmp_path / "inner"))
    assert source.images["train"][0].path.startswith(str(tmp_path / "inner"))
    cases.write_text(tmp_path / "empty" / "data.yaml", text)
    with pytest.raises(UserError, match="2 train images lie outside .*; --allow-outside permits"):
        find_source(str(tmp_path / "empty"))
    source = find_source(str(tmp_path / "empty"), ReadOptions(allow_outside=True))
    assert "2 train images lie outside" in source.faults.remarks[0]
    converted = convert(source, "train")
    assert converted.image_root == str(tmp_path / "images" / "train")


@pytest.mark.parametrize("text", ["", None])
def test_an_image_with_an_empty_or_missing_label_file_has_no_objects(tmp_path, text):
    cases.make_image(tmp_path / "images" / "empty.jpg")
    if text is not None:
        cases.write_text(tmp_path / "labels" / "empty.txt", text)
    content, source = one_image(tmp_path, cases.yolo_line(0, (1, 2, 3, 4)))
    assert len(source.faults.remarks) == (text is None)
    assert [image["file_name"] for image in content["images"]] == [
        "images/a.jpg",
        "images/empty.jpg",
    ]
    assert len(content["annotations"]) == 1


def test_malformed_lines_are_reported_with_their_line_numbers(tmp_path):
    text = cases.yolo_line(0, (1, 2, 3, 4)) + "0 0.5 0.5\n0 0.5 0.5 0.1 0.1 0.9\n0 a b c d\n"
    content, source = one_image(tmp_path, text)
    assert len(content["annotations"]) == 1
    assert [fault.place for fault in source.faults.rows] == ["line 2", "line 3", "line 4"]
    assert {fault.file for fault in source.faults.rows} == {str(tmp_path / "labels" / "a.txt")}
    expected = "expected 5 numbers, or a class index and at least 3 points, got 3 numbers"
    assert source.faults.rows[0].text == expected


def test_boxes_beyond_the_image_are_converted_unclipped(tmp_path):
    content, _ = one_image(tmp_path, cases.yolo_line(0, (-5, 2, 80, 4)))
    assert content["annotations"][0]["bbox"] == pytest.approx([-5, 2, 80, 4])


def test_pixel_coordinates_raise_user_error(tmp_path):
    message = ".*a.txt, line 1: .*expected fractions of the width and height, got '0 32 24 20 20'"
    with pytest.raises(UserError, match=message):
        one_image(tmp_path, "0 32 24 20 20\n")


def test_a_class_index_without_a_name_raises_user_error(tmp_path):
    with pytest.raises(UserError, match=r"a.txt, line 1: expected a class index below 2, .*got 2"):
        one_image(tmp_path, cases.yolo_line(2, (1, 2, 3, 4)))


def test_class_indices_with_decimals_and_labels_with_keypoints_are_read(tmp_path):
    cases.make_image(tmp_path / "images" / "a.jpg")
    cases.write_text(tmp_path / "labels" / "a.txt", "0.0 0.5 0.5 0.25 0.25 0.1 0.1 2 0.2 0.2 1\n")
    text = "train: images\nval: images\nnames: [cat]\nkpt_shape: [2, 3]\n"
    cases.write_text(tmp_path / "data.yaml", text)
    content = convert(find_source(str(tmp_path)), "train").content
    assert content["annotations"][0]["bbox"] == [24, 18, 16, 12]


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (
            "train: nowhere\nval: images/val\nnames: [cat, dog]\n",
            "no folder or list of images at t",
        ),
        ("train: images/train\nnames: {0: cat, 2: dog}\n", "'names': expected the indices 0 to 1"),
        ("train: images/train\nnames: [cat, cat]\n", "two classes have the name 'cat'"),
        ("train: images/train\nnames: [cat]\n", "expected a class index below 1"),
    ],
)
def test_a_data_yaml_with_wrong_folders_or_names_raises_user_error(tmp_path, description, message):
    root = cases.yolo_set(tmp_path, description)
    with pytest.raises(UserError, match=message):
        find_source(str(root))


def test_a_yaml_file_of_another_kind_raises_user_error(tmp_path):
    path = cases.write_text(tmp_path / "config.yaml", "MODEL: x\n")
    with pytest.raises(UserError, match="expected a YOLO data.yaml"):
        find_source(str(path))


def test_a_data_set_without_labels_raises_user_error(tmp_path):
    root = cases.yolo_set(tmp_path)
    for path in (root / "labels").rglob("*.txt"):
        path.unlink()
    with pytest.raises(UserError, match="none of 4 images has a label file with objects"):
        find_source(str(root))


def test_an_unreadable_image_is_skipped_and_reported(tmp_path):
    root = cases.yolo_set(tmp_path)
    (root / "images" / "train" / "train0.jpg").write_bytes(b"<html>")
    source = find_source(str(root))
    converted = convert(source, "train")
    assert cases.objects_of(converted.content) == cases.expected_objects("train1.jpg")
    rows = [(fault.kind, fault.action) for fault in source.faults.rows]
    assert rows == [("unreadable image", "skipped")]


def test_image_sizes_are_those_after_the_exif_rotation(tmp_path):
    cases.set_orientation(cases.make_image(tmp_path / "images" / "b.jpg"), 6)
    cases.write_text(tmp_path / "labels" / "b.txt", "0 0.5 0.5 1 1\n")
    source = find_source(str(tmp_path))
    content = convert(source, "all").content
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (48, 64)
    assert content["annotations"][0]["bbox"] == [0, 0, 48, 64]


def test_a_list_with_images_outside_the_folder_raises_user_error(tmp_path):
    outside = cases.make_image(tmp_path / "outside.jpg")
    root = cases.yolo_set(tmp_path / "set", "train: list.txt\nval: images/val\nnames: [cat, dog]\n")
    cases.write_text(root / "list.txt", f"images/train/train0.jpg\n{outside}\n")
    with pytest.raises(UserError, match="1 train image lies outside"):
        find_source(str(root))


def test_a_broken_data_yaml_raises_user_error_instead_of_being_skipped(tmp_path):
    root = cases.yolo_set(tmp_path, "train: images/train\n\tnames: [cat, dog]\n")
    with pytest.raises(UserError, match=r"data.yaml: cannot be read as YAML .*line 2"):
        find_source(str(root))


def test_class_names_that_yaml_reads_as_booleans_raise_user_error(tmp_path):
    root = cases.yolo_set(tmp_path, "train: images/train\nnames: [yes, no]\n")
    with pytest.raises(UserError, match="'names': expected strings, got True; put such names in q"):
        find_source(str(root))


def test_a_class_index_of_10000_or_more_raises_user_error(tmp_path):
    cases.make_image(tmp_path / "a.jpg")
    cases.write_text(tmp_path / "a.txt", "20240131 0.5 0.5 0.1 0.1\n")
    with pytest.raises(UserError, match="a.txt, line 1: .* an index below 10,000, got 20240131"):
        find_source(str(tmp_path))
