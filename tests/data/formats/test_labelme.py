"""Read LabelMe annotations."""

import math

import pytest

from ranking_det.data.formats.sources import convert, find_source
from ranking_det.user_errors import UserError
from tests.data.formats import cases

TRIANGLE = [[1, 2], [9, 2], [9, 8]]


def read(tmp_path, shapes, **options):
    cases.labelme_file(tmp_path / "1.json", shapes, **options)
    source = find_source(str(tmp_path))
    return convert(source, "all").content, source


def test_polygons_rectangles_and_circles_are_read(tmp_path):
    shapes = [
        ("cat", "polygon", TRIANGLE, None),
        ("dog", "rectangle", [[20, 30], [10, 15]], None),
        ("dog", "circle", [[30, 20], [30, 25]], None),
    ]
    content, _ = read(tmp_path, shapes)
    first, second, third = content["annotations"]
    assert first["segmentation"] == [[1, 2, 9, 2, 9, 8]]
    assert (first["bbox"], first["area"]) == ([1, 2, 8, 6], 24)
    assert second["bbox"] == [10, 15, 10, 15]
    assert "segmentation" not in second
    assert third["bbox"] == [25, 15, 10, 10]
    assert third["area"] == pytest.approx(math.pi * 25, rel=0.01)


@pytest.mark.parametrize("name", ["..\\images\\1.jpg", "C:\\x\\1.JPG", "1.png", "", None])
def test_the_image_is_found_if_image_path_has_another_folder_extension_or_no_name(tmp_path, name):
    cases.make_image(tmp_path / "images" / "1.jpg")
    shapes = [{"label": "cat", "points": TRIANGLE, "shape_type": "polygon"}]
    cases.write_json(tmp_path / "json" / "1.json", {"shapes": shapes, "imagePath": name})
    content = convert(find_source(str(tmp_path)), "all").content
    image = content["images"][0]
    assert (image["file_name"], image["width"], image["height"]) == ("images/1.jpg", 64, 48)


def test_shapes_with_the_same_group_id_and_label_form_one_object(tmp_path):
    second_triangle = [[20, 20], [30, 20], [30, 30]]
    shapes = [
        ("cat", "polygon", TRIANGLE, 1),
        ("cat", "polygon", second_triangle, 1),
        ("dog", "polygon", second_triangle, 1),
        ("cat", "polygon", second_triangle, None),
    ]
    content, _ = read(tmp_path, shapes)
    assert [a["bbox"] for a in content["annotations"]] == [
        [1, 2, 29, 28],
        [20, 20, 10, 10],
        [20, 20, 10, 10],
    ]
    assert len(content["annotations"][0]["segmentation"]) == 2


def test_lines_and_faulty_shapes_are_left_out_and_counted(tmp_path):
    shapes = [
        ("cat", "polygon", TRIANGLE, None),
        ("cat", "linestrip", TRIANGLE, None),
        ("cat", "polygon", TRIANGLE[:2], None),
        ("cat", "polygon", [[1, 2], [3]], None),
        (None, "polygon", TRIANGLE, None),
    ]
    content, source = read(tmp_path, shapes)
    assert len(content["annotations"]) == 1
    kinds = [fault.kind for fault in source.faults.rows]
    assert kinds == ["linestrip", "malformed shape", "malformed shape", "no class"]


def test_broken_files_and_missing_images_are_counted(tmp_path):
    for i in range(3):
        path = tmp_path / f"{i}.json"
        cases.labelme_file(path, [("cat", "polygon", TRIANGLE, None)], f"{i}.jpg")
    cases.write_text(tmp_path / "1.json", "{")
    (tmp_path / "2.jpg").unlink()
    source = find_source(str(tmp_path))
    assert [fault.kind for fault in source.faults.rows] == ["broken JSON", "missing image"]
    assert source.splits == {"all": 1}


def test_folders_named_train_and_val_are_splits(tmp_path):
    for split in ("train", "val"):
        cases.labelme_file(tmp_path / split / "1.json", [("cat", "polygon", TRIANGLE, None)])
    assert find_source(str(tmp_path)).summary == "found: LabelMe, 1 train and 1 val images, 1 class"


def test_files_without_shapes_raise_user_error(tmp_path):
    with pytest.raises(UserError, match="LabelMe annotations without objects"):
        read(tmp_path, [])
