"""Read Pascal VOC data sets."""

import pytest

from ranking_det.data.formats.sources import convert, find_source
from ranking_det.user_errors import UserError
from tests.data.formats import cases


def read(path, split="all"):
    source = find_source(str(path))
    return convert(source, split).content, source


def one_image(root, text, name="a.jpg", xml="a.xml"):
    cases.make_image(root / name)
    cases.write_text(root / xml, text)
    return read(root)


def test_pixels_count_from_1_and_lists_define_the_splits(tmp_path):
    source = find_source(str(cases.voc_set(tmp_path)))
    assert source.classes == ["cat", "dog"]
    content = convert(source, "train").content
    assert cases.objects_of(content) == cases.expected_objects("0.jpg", "1.jpg")
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert [image["id"] for image in content["images"]] == [1, 2]


def test_a_coordinate_of_0_means_that_pixels_count_from_0(tmp_path):
    text = cases.voc_text([("cat", -1, 4, 10, 10), ("dog", 9, 9, 10, 10)])
    content, source = one_image(tmp_path, text)
    assert cases.objects_of(content) == [
        ("a.jpg", "cat", (0, 5, 9, 9)),
        ("a.jpg", "dog", (10, 10, 9, 9)),
    ]
    assert "count from 0" in source.faults.remarks[0]


def test_a_box_with_equal_corners_has_size_0(tmp_path):
    content, _ = one_image(tmp_path, cases.voc_text([("cat", 5, 6, 1, 1), ("cat", 5, 6, 2, 2)]))
    assert [a["bbox"] for a in content["annotations"]] == [[6, 7, 0, 0], [5, 6, 2, 2]]
    assert content["annotations"][0]["area"] == 0


def test_difficult_objects_get_the_ignore_flag(tmp_path):
    extra = "<difficult>1</difficult>"
    content, _ = one_image(tmp_path, cases.voc_text([("cat", 1, 2, 3, 4)], extra=extra))
    assert content["annotations"][0]["ignore"] == 1
    content, _ = one_image(tmp_path, cases.voc_text([("cat", 1, 2, 3, 4)]))
    assert "ignore" not in content["annotations"][0]


def test_fractional_coordinates_are_kept(tmp_path):
    content, _ = one_image(tmp_path, cases.voc_text([("cat", 1.25, 2.5, 3.5, 4.125)]))
    assert content["annotations"][0]["bbox"] == [1.25, 2.5, 3.5, 4.125]


@pytest.mark.parametrize("size", [None, (0, 0)])
def test_a_missing_image_size_is_read_from_the_image_file(tmp_path, size):
    content, _ = one_image(tmp_path, cases.voc_text([("cat", 1, 2, 3, 4)], size=size))
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (64, 48)


@pytest.mark.parametrize("image", ["a.JPG", "a.png", "A.jpeg"])
def test_the_image_file_may_have_another_extension_or_case(tmp_path, image):
    content, _ = one_image(tmp_path, cases.voc_text([("cat", 1, 2, 3, 4)]), name=image)
    assert content["images"][0]["file_name"] == image


def test_the_file_name_in_the_xml_finds_the_image_if_the_stems_differ(tmp_path):
    text = cases.voc_text([("cat", 1, 2, 3, 4)], name="C:\\data\\Größe 1.jpg")
    content, _ = one_image(tmp_path, text, name="Größe 1.jpg", xml="0001.xml")
    assert content["images"][0]["file_name"] == "Größe 1.jpg"


def test_lists_may_have_names_with_spaces_and_label_columns(tmp_path):
    for stem in ("a b", "c", "1 0"):
        cases.make_image(tmp_path / "JPEGImages" / f"{stem}.jpg")
        cases.write_text(
            tmp_path / "Annotations" / f"{stem}.xml", cases.voc_text([("cat", 1, 2, 3, 4)])
        )
    lists = tmp_path / "ImageSets" / "Main"
    cases.write_text(lists / "train.txt", "a b\nc  1\n1 0\n")
    cases.write_text(lists / "cat_train.txt", "a b -1\n")
    source = find_source(str(tmp_path))
    assert source.splits == {"train": 3}


def test_lists_may_have_paths_and_file_extensions(tmp_path):
    cases.voc_set(tmp_path)
    lists = tmp_path / "ImageSets" / "Main"
    cases.write_text(lists / "train.txt", "JPEGImages/0.jpg\r\nJPEGImages\\1.jpg\r\n")
    assert find_source(str(tmp_path)).splits == {"train": 2, "val": 2}


def test_lists_of_two_years_are_joined(tmp_path):
    cases.voc_set(tmp_path / "VOC2007")
    cases.voc_set(tmp_path / "VOC2012", lists=("train",), per_split=3)
    source = find_source(str(tmp_path))
    assert source.splits == {"train": 5, "val": 2}
    names = [image["file_name"] for image in convert(source, "train").content["images"]]
    assert names[0] == "VOC2007/JPEGImages/0.jpg"
    assert names[-1] == "VOC2012/JPEGImages/2.jpg"


def test_mask_files_named_like_images_are_not_used_as_images(tmp_path):
    cases.voc_set(tmp_path)
    for folder in ("SegmentationClass", "SegmentationObject"):
        cases.make_image(tmp_path / folder / "0.png")
    names = convert(find_source(str(tmp_path)), "train").content["images"]
    assert names[0]["file_name"] == "JPEGImages/0.jpg"


def test_a_list_of_images_without_annotations_is_skipped_with_a_remark(tmp_path):
    cases.voc_set(tmp_path)
    cases.write_text(tmp_path / "ImageSets" / "Main" / "test.txt", "8\n9\n")
    source = find_source(str(tmp_path))
    assert source.splits == {"train": 2, "val": 2}
    assert any("test.txt is not used" in note for note in source.faults.remarks)


def test_folders_define_the_splits_if_there_are_no_lists(tmp_path):
    for folder in ("train", "valid", "test"):
        cases.make_image(tmp_path / folder / f"{folder}.jpg")
        cases.write_text(tmp_path / folder / f"{folder}.xml", cases.voc_text([("cat", 1, 2, 3, 4)]))
    assert find_source(str(tmp_path)).splits == {"train": 1, "val": 1, "test": 1}


def test_polygon_tags_become_masks(tmp_path):
    points = "".join(
        f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>" for i, (x, y) in enumerate([(2, 3), (4, 3), (4, 6)], 1)
    )
    text = cases.voc_text([("cat", 1, 2, 3, 4)], extra=f"<polygon>{points}</polygon>")
    content, _ = one_image(tmp_path, text)
    assert content["annotations"][0]["segmentation"] == [[1, 2, 3, 2, 3, 5]]


def test_faulty_files_and_objects_are_reported_with_their_places(tmp_path):
    cases.voc_set(tmp_path)
    cases.write_text(tmp_path / "Annotations" / "0.xml", "<annotation><object>")
    text = cases.voc_text([("cat", 1, 2, 3, 4), ("", 1, 2, 3, 4), ("cat", 5, 6, 7, 8)])
    text = text.replace("<xmax>12</xmax>", "<xmax>twelve</xmax>")
    cases.write_text(tmp_path / "Annotations" / "1.xml", text)
    cases.make_image(tmp_path / "JPEGImages" / "3.jpg").unlink()
    source = find_source(str(tmp_path))
    assert source.splits == {"train": 1, "val": 1}
    kinds = [fault.kind for fault in source.faults.rows]
    assert kinds == ["broken XML", "no class", "malformed box", "missing image"]
    xml_file, image = (str(tmp_path / name) for name in ("Annotations/1.xml", "JPEGImages/1.jpg"))
    fault = source.faults.rows[2]
    assert fault[:6] == (xml_file, "object 3", "", image, "malformed box", "left out")
    assert str(fault).startswith(f"{xml_file}, object 3: <bndbox>: expected numbers")
    assert source.lines[1].startswith(
        f"left out: malformed box: 1; the first: {xml_file}, object 3"
    )
    assert source.lines[3].startswith("skipped: broken XML: 1; the first: ")


def test_more_than_10_faulty_objects_raise_user_error(tmp_path):
    boxes = [("cat", 1, 2, 3, 4)] * 20 + [("", 1, 2, 3, 4)] * 11
    with pytest.raises(
        UserError, match=r"\(no class 11\); --max-faults 11 accepts this \(31 objects in total\)"
    ):
        one_image(tmp_path, cases.voc_text(boxes))


def test_10_faulty_objects_are_left_out(tmp_path):
    boxes = [("cat", 1, 2, 3, 4)] * 20 + [("", 1, 2, 3, 4)] * 10
    assert len(one_image(tmp_path, cases.voc_text(boxes))[0]["annotations"]) == 20


def test_different_annotations_of_one_image_raise_user_error(tmp_path):
    cases.make_image(tmp_path / "a.jpg")
    cases.write_text(tmp_path / "a.xml", cases.voc_text([("cat", 1, 2, 3, 4)]))
    cases.write_text(tmp_path / "backup" / "a.xml", cases.voc_text([("cat", 1, 2, 3, 4)]))
    assert len(read(tmp_path)[0]["annotations"]) == 1
    cases.write_text(tmp_path / "backup" / "a.xml", cases.voc_text([("cat", 1, 2, 3, 5)]))
    with pytest.raises(UserError, match="two annotations with different objects"):
        read(tmp_path)


def test_a_data_set_without_objects_raises_user_error(tmp_path):
    with pytest.raises(UserError, match="Pascal VOC annotations without objects"):
        one_image(tmp_path, cases.voc_text([]))


@pytest.mark.parametrize("encoding", ["gbk", "latin-1", "utf-16"])
def test_xml_files_may_have_another_encoding_and_begin_with_an_empty_line(tmp_path, encoding):
    name = "Käfer" if encoding == "latin-1" else "车"
    cases.make_image(tmp_path / "1.jpg")
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n' + cases.voc_text([(name, 1, 2, 9, 9)])
    start = b"" if encoding == "utf-16" else b"\n"
    (tmp_path / "1.xml").write_bytes(start + text.encode(encoding))
    assert find_source(str(tmp_path)).classes == [name]


def test_namespaces_are_ignored_and_other_xml_is_reported(tmp_path):
    for stem in "12":
        cases.make_image(tmp_path / f"{stem}.jpg")
    text = cases.voc_text([("cat", 1, 2, 9, 9)])
    cases.write_text(tmp_path / "1.xml", text.replace("<annotation>", '<annotation xmlns="x:y">'))
    cases.write_text(tmp_path / "2.xml", "<annotations/>")
    source = find_source(str(tmp_path))
    assert source.classes == ["cat"]
    (remark,) = source.faults.remarks
    assert "2.xml is not used: expected the root <annotation>, got <annotations>" in remark


def test_unlisted_images_are_reported_and_missing_files_count_once(tmp_path):
    root = cases.voc_set(tmp_path, lists=("train", "val"))
    cases.write_text(root / "ImageSets" / "Main" / "train.txt", "0\nmissing\n")
    cases.write_text(root / "ImageSets" / "Main" / "trainval.txt", "0\n2\n3\nmissing\n")
    source = find_source(str(root))
    assert source.faults.counts == {("skipped", "no XML file"): 1}
    (remark,) = source.faults.remarks
    assert remark.startswith("1 XML files are in no list and are not used, such as ")
