"""Read projects and annotations of the VGG Image Annotator (VIA)."""

import math

import pytest

from ranking_det.data.formats.sources import convert, find_source
from ranking_det.user_errors import UserError
from tests.data.formats import cases
from tests.data.formats.cases import via_polygon, via_region

RECT = {"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4}


def read(tmp_path, regions, **options):
    cases.via_file(tmp_path / "via.json", regions, **options)
    source = find_source(str(tmp_path))
    return convert(source, "all").content, source


def names_of(content):
    return [name for _, name, _ in cases.objects_of(content)]


@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize("as_dict", [False, True])
def test_rectangles_and_polygons_of_all_via_versions_are_read(tmp_path, project, as_dict):
    regions = [
        via_region(RECT, kind="cat"),
        via_region(via_polygon((1, 1), (9, 1), (9, 5)), kind="dog"),
    ]
    if as_dict:
        regions = {str(i): region for i, region in enumerate(regions)}
    content, source = read(tmp_path, regions, project=project)
    assert cases.objects_of(content) == [
        ("1.jpg", "cat", (1, 2, 3, 4)),
        ("1.jpg", "dog", (1, 1, 8, 4)),
    ]
    assert "segmentation" not in content["annotations"][0]
    assert content["annotations"][1]["segmentation"] == [[1, 1, 9, 1, 9, 5]]
    assert source.faults.remarks == ["the region attribute 'kind' names the class"]
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (64, 48)


def test_a_circle_becomes_a_polygon_with_its_box_and_nearly_its_area(tmp_path):
    circle = {"name": "circle", "cx": 20, "cy": 15, "r": 10}
    (annotation,) = read(tmp_path, [via_region(circle, kind="cat")])[0]["annotations"]
    assert annotation["bbox"] == [10, 5, 20, 20]
    assert annotation["area"] == pytest.approx(math.pi * 100, rel=0.01)


def test_the_box_of_a_rotated_ellipse_is_exact(tmp_path):
    shape = {"name": "ellipse", "cx": 30, "cy": 20, "rx": 12, "ry": 5, "theta": math.pi / 2}
    (annotation,) = read(tmp_path, [via_region(shape, kind="cat")])[0]["annotations"]
    assert annotation["bbox"] == pytest.approx([25, 8, 10, 24])
    assert annotation["area"] == pytest.approx(math.pi * 60, rel=0.01)


def test_points_and_lines_are_left_out_and_counted(tmp_path):
    point = {"name": "point", "cx": 1, "cy": 2}
    line = {"name": "polyline", "all_points_x": [1, 2], "all_points_y": [1, 2]}
    broken_rectangle = {"name": "rect", "x": 1, "y": 2, "width": None, "height": 4}
    regions = [via_region(shape, kind="cat") for shape in (RECT, point, line, broken_rectangle)]
    content, source = read(tmp_path, regions)
    assert len(content["annotations"]) == 1
    kinds = [fault.kind for fault in source.faults.rows]
    assert kinds == ["point", "polyline", "malformed region"]


def test_regions_without_attributes_get_the_class_object(tmp_path):
    content, source = read(tmp_path, [via_region(RECT), via_region(RECT, kind="")])
    assert names_of(content) == ["object", "object"]
    assert "no region has an attribute" in source.faults.remarks[0]


def test_a_region_without_the_class_attribute_gets_the_only_class(tmp_path):
    content, source = read(tmp_path, [via_region(RECT, kind="cat"), via_region(RECT)])
    assert names_of(content) == ["cat", "cat"]
    expected = "regions without 'kind' get the only class, 'cat': 1 of 2"
    assert expected in source.faults.remarks[1]


def test_a_region_without_the_class_attribute_is_left_out_if_there_are_several_classes(tmp_path):
    regions = [via_region(RECT, kind="cat"), via_region(RECT, kind="dog"), via_region(RECT)]
    content, source = read(tmp_path, regions)
    assert names_of(content) == ["cat", "dog"]
    assert [fault.kind for fault in source.faults.rows] == ["no class"]


def test_the_attribute_that_most_regions_have_is_the_class(tmp_path):
    regions = [via_region(RECT, kind="cat", quality="bad"), via_region(RECT, kind="dog")]
    assert names_of(read(tmp_path, regions)[0]) == ["cat", "dog"]


def test_a_common_class_attribute_name_is_preferred_unless_another_is_given(tmp_path):
    regions = [
        via_region(RECT, Label="cat", mood="glad"),
        via_region(RECT, Label="dog", mood="sad"),
    ]
    assert names_of(read(tmp_path, regions)[0]) == ["cat", "dog"]
    source = find_source(str(tmp_path), class_attribute="mood")
    assert source.classes == ["glad", "sad"]


def test_attributes_with_the_same_values_count_as_one(tmp_path):
    regions = [via_region(RECT, insect="bug", inseto="bug")]
    assert names_of(read(tmp_path, regions)[0]) == ["bug"]


def test_ambiguous_class_attributes_raise_user_error(tmp_path):
    with pytest.raises(
        UserError, match=r"1 region has the attributes mood \(1\), species \(1\): it is not clear"
    ):
        read(tmp_path, [via_region(RECT, species="cat", mood="sad")])


def test_a_class_attribute_that_no_region_has_raises_user_error(tmp_path):
    cases.via_file(tmp_path / "via.json", [via_region(RECT, kind="cat")])
    with pytest.raises(UserError, match="no region has the attribute 'color'"):
        find_source(str(tmp_path), class_attribute="color")


def test_one_ticked_checkbox_is_the_class_and_two_leave_the_region_out(tmp_path):
    regions = [
        via_region(RECT, kind={"cat": True, "dog": False}),
        via_region(RECT, kind={"cat": True, "dog": True}),
        via_region(RECT, kind={"dog": True}),
    ]
    content, source = read(tmp_path, regions)
    assert names_of(content) == ["cat", "dog"]
    assert [fault.kind for fault in source.faults.rows] == ["several classes"]


def test_class_names_come_from_the_options_of_the_project(tmp_path):
    cases.make_image(tmp_path / "1.jpg")
    image = {"filename": "1.jpg", "regions": [via_region(RECT, kind="1")]}
    attributes = {"region": {"kind": {"type": "radio", "options": {"1": "cat", "2": ""}}}}
    content = {"_via_img_metadata": {"1.jpg9": image}, "_via_attributes": attributes}
    cases.write_json(tmp_path / "project.json", content)
    assert find_source(str(tmp_path)).classes == ["cat"]


def test_folders_named_train_and_val_are_splits_and_share_the_only_class(tmp_path):
    cases.via_file(tmp_path / "train" / "via.json", [via_region(RECT, kind="cat")])
    cases.via_file(tmp_path / "val" / "via.json", [via_region(RECT)])
    source = find_source(str(tmp_path))
    assert source.summary == "found: VIA, 1 train and 1 val images, 1 class"
    assert names_of(convert(source, "val").content) == ["cat"]


def test_a_common_class_attribute_that_some_regions_lack_is_ambiguous(tmp_path):
    regions = [cases.via_region(RECT, quality="good", **{"class": "cat"}) for _ in range(4)]
    regions.append(cases.via_region(RECT, quality="bad"))
    path = cases.via_file(tmp_path / "via.json", regions)
    with pytest.raises(UserError, match=r"attributes quality \(5\), class \(4\): it is not clear"):
        find_source(str(path))
