"""Projects and annotations of the VGG Image Annotator."""

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
def test_rectangles_and_polygons_of_all_versions(tmp_path, project, as_dict):
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


def test_a_circle_is_a_polygon_of_its_area_in_its_box(tmp_path):
    circle = {"name": "circle", "cx": 20, "cy": 15, "r": 10}
    (annotation,) = read(tmp_path, [via_region(circle, kind="cat")])[0]["annotations"]
    assert annotation["bbox"] == [10, 5, 20, 20]
    assert annotation["area"] == pytest.approx(math.pi * 100, rel=0.01)


def test_a_turned_ellipse_has_an_exact_box(tmp_path):
    shape = {"name": "ellipse", "cx": 30, "cy": 20, "rx": 12, "ry": 5, "theta": math.pi / 2}
    (annotation,) = read(tmp_path, [via_region(shape, kind="cat")])[0]["annotations"]
    assert annotation["bbox"] == pytest.approx([25, 8, 10, 24])
    assert annotation["area"] == pytest.approx(math.pi * 60, rel=0.01)


def test_points_and_lines_are_left_out_and_counted(tmp_path):
    point = {"name": "point", "cx": 1, "cy": 2}
    line = {"name": "polyline", "all_points_x": [1, 2], "all_points_y": [1, 2]}
    broken = {"name": "rect", "x": 1, "y": 2, "width": None, "height": 4}
    regions = [via_region(shape, kind="cat") for shape in (RECT, point, line, broken)]
    content, source = read(tmp_path, regions)
    assert len(content["annotations"]) == 1
    kinds = [fault.kind for fault in source.faults.rows]
    assert kinds == ["point", "polyline", "malformed region"]


def test_regions_without_attributes_are_of_one_class(tmp_path):
    content, source = read(tmp_path, [via_region(RECT), via_region(RECT, kind="")])
    assert names_of(content) == ["object", "object"]
    assert "no region has an attribute" in source.faults.remarks[0]


def test_a_region_without_the_attribute_is_of_the_only_class(tmp_path):
    content, source = read(tmp_path, [via_region(RECT, kind="cat"), via_region(RECT)])
    assert names_of(content) == ["cat", "cat"]
    assert "1 of 2 regions have no 'kind': they get the only class" in source.faults.remarks[1]


def test_a_region_without_a_class_among_several_is_left_out(tmp_path):
    regions = [via_region(RECT, kind="cat"), via_region(RECT, kind="dog"), via_region(RECT)]
    content, source = read(tmp_path, regions)
    assert names_of(content) == ["cat", "dog"]
    assert [fault.kind for fault in source.faults.rows] == ["no class"]


def test_the_attribute_that_most_regions_have_names_the_class(tmp_path):
    regions = [via_region(RECT, kind="cat", quality="bad"), via_region(RECT, kind="dog")]
    assert names_of(read(tmp_path, regions)[0]) == ["cat", "dog"]


def test_of_equal_attributes_the_usual_name_or_the_given_one_is_taken(tmp_path):
    regions = [
        via_region(RECT, Label="cat", mood="glad"),
        via_region(RECT, Label="dog", mood="sad"),
    ]
    assert names_of(read(tmp_path, regions)[0]) == ["cat", "dog"]
    source = find_source(str(tmp_path), class_attribute="mood")
    assert source.classes == ["glad", "sad"]


def test_attributes_with_the_same_values_are_one(tmp_path):
    regions = [via_region(RECT, insect="bug", inseto="bug")]
    assert names_of(read(tmp_path, regions)[0]) == ["bug"]


def test_several_attributes_that_could_be_the_class_are_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"have the attributes mood \(1\), species \(1\): it is not clear"
    ):
        read(tmp_path, [via_region(RECT, species="cat", mood="sad")])


def test_an_attribute_that_no_region_has_is_refused(tmp_path):
    cases.via_file(tmp_path / "via.json", [via_region(RECT, kind="cat")])
    with pytest.raises(UserError, match="no region has the attribute 'color'"):
        find_source(str(tmp_path), class_attribute="color")


def test_a_checked_box_names_the_class_and_two_do_not(tmp_path):
    regions = [
        via_region(RECT, kind={"cat": True, "dog": False}),
        via_region(RECT, kind={"cat": True, "dog": True}),
        via_region(RECT, kind={"dog": True}),
    ]
    content, source = read(tmp_path, regions)
    assert names_of(content) == ["cat", "dog"]
    assert [fault.kind for fault in source.faults.rows] == ["several classes"]


def test_options_of_a_project_give_the_names(tmp_path):
    cases.make_image(tmp_path / "1.jpg")
    image = {"filename": "1.jpg", "regions": [via_region(RECT, kind="1")]}
    attributes = {"region": {"kind": {"type": "radio", "options": {"1": "cat", "2": ""}}}}
    content = {"_via_img_metadata": {"1.jpg9": image}, "_via_attributes": attributes}
    cases.write_json(tmp_path / "project.json", content)
    assert find_source(str(tmp_path)).classes == ["cat"]


def test_folders_are_splits_and_the_class_holds_for_all(tmp_path):
    cases.via_file(tmp_path / "train" / "via.json", [via_region(RECT, kind="cat")])
    cases.via_file(tmp_path / "val" / "via.json", [via_region(RECT)])
    source = find_source(str(tmp_path))
    assert source.summary == "found: VIA, 1 train and 1 val images, 1 class"
    assert names_of(convert(source, "val").content) == ["cat"]


def test_a_class_that_a_few_regions_lack_does_not_lose_against_a_quality_of_all(tmp_path):
    regions = [cases.via_region(RECT, quality="good", **{"class": "cat"}) for _ in range(4)]
    regions.append(cases.via_region(RECT, quality="bad"))
    path = cases.via_file(tmp_path / "via.json", regions)
    with pytest.raises(UserError, match=r"attributes quality \(5\), class \(4\): it is not clear"):
        find_source(str(path))
