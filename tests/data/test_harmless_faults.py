"""Harmless faults in COCO and LVIS JSON are converted, corrected or left out, and reported."""

import copy
import json
import math

import pytest
from PIL import Image

from ranking_det.data.catalog import to_records
from ranking_det.data.coco_json.reader import (
    ReadOptions,
    check_content,
    read_annotations,
    summarize,
)
from ranking_det.user_errors import UserError
from tests.data.cases import valid_content

POLYGON = [[2, 2, 12, 2, 12, 12]]
FAR_POLYGON = [[1, 1, 5, 1, 1e9, 5]]
RLE_SIZE = {"size": [30, 40]}


@pytest.fixture
def read(tmp_path):
    """Write a file and its three images, and read it for training; return content and notes."""
    images = tmp_path / "images"
    images.mkdir()
    for i in (11, 12, 13):
        Image.new("RGB", (40, 30)).save(images / f"{i}.png")

    def read_content(content, **options):
        path = tmp_path / "own.json"
        path.write_text(json.dumps(content))
        before = path.read_bytes()
        options = ReadOptions(**({"masks": True} | options))
        annotations = read_annotations(path, images, options, needs_objects=True)
        summary = summarize(annotations, options)
        class_of = {identity: i for i, identity in enumerate(summary.category_ids)}
        objects = [a for r in to_records(annotations, class_of) for a in r["annotations"]]
        # The summary counts the objects that training gets.
        assert summary.num_objects == sum(not a.get("iscrowd", 0) for a in objects)
        assert summary.num_objects + summary.num_crowds == len(objects)
        assert path.read_bytes() == before
        return annotations, summary.notes

    return read_content


def edit(*keys, **values):
    """Return a mutation: content[keys...].update(values), where ... removes a key."""

    def apply(content):
        entry = content
        for key in keys:
            entry = entry[key]
        entry.update(values)
        for key in [key for key, value in values.items() if value is ...]:
            del entry[key]

    return apply


def every(section, **changes):
    """Return a mutation that applies functions to the fields of all entries of a section."""

    def apply(content):
        for entry in content[section]:
            for key, change in changes.items():
                if key in entry:
                    entry[key] = change(entry[key])

    return apply


def ids(change):
    """Return a mutation that applies a function to all ids."""

    def apply(content):
        every("categories", id=change)(content)
        every("images", id=change)(content)
        every("annotations", id=change, image_id=change, category_id=change)(content)

    return apply


def image(**values):
    return edit("images", 0, **values)


def annotation(**values):
    return edit("annotations", 0, **values)


def add(section, **values):
    """Return a mutation that appends a copy of the first entry with these values."""
    return lambda content: content[section].append(content[section][0] | values)


EQUIVALENT_FORMS = {
    "an empty URL": every("images", file_name=str) and image(coco_url="", flickr_url=""),
    "a URL of null": image(coco_url=None),
    "iscrowd and area of null": annotation(iscrowd=None, area=None),
    "an empty area": annotation(area=""),
    "an area that is not a number": (
        annotation(area="large"),
        "converted: annotations: 'area' is not a number and counts as missing: 1",
    ),
    "an area of text": (annotation(area="9.5"), "converted: annotations: 'area' written as str: 1"),
    "a negative area": annotation(area=-1),
    "an infinite area": annotation(area=math.inf),
    "an area of NaN": annotation(area=math.nan),
    "iscrowd of text": (
        annotation(iscrowd="0"),
        "converted: annotations: 'iscrowd' written as str: 1",
    ),
    "iscrowd of false": (
        annotation(iscrowd=False),
        "converted: annotations: 'iscrowd' written as bool: 1",
    ),
    "ids as floats": (
        ids(float),
        "converted: annotations: 'category_id' written as float: 4",
        "converted: annotations: 'id' written as float: 4",
        "converted: annotations: 'image_id' written as float: 4",
        "converted: categories: 'id' written as float: 3",
        "converted: images: 'id' written as float: 3",
    ),
    "an id as text": (
        annotation(image_id="11"),
        "converted: annotations: 'image_id' written as str: 1",
    ),
    "a category id as text": (
        edit("categories", 1, id="9"),
        "converted: categories: 'id' written as str: 1",
    ),
    "sizes as floats": (
        every("images", width=float, height=float),
        "converted: images: 'height' written as float: 3",
        "converted: images: 'width' written as float: 3",
    ),
    "a size as text": (image(width="40"), "converted: images: 'width' written as str: 1"),
    "numbers as text inside a box": (
        annotation(bbox=[2, "2", 10.0, "10.5000"]),
        "converted: annotations: 'bbox' written as text or null: 1",
    ),
    "no annotation id": annotation(id=...),
    "an annotation id twice": annotation(id=2),
    "a missing box next to a mask": (
        lambda content: (
            annotation(bbox=..., segmentation=[[2, 2, 12, 2, 12, 12.5]])(content),
            content["annotations"][1].update(bbox=[20, 5, 20.9, 25]),
        ),
        "converted: annotations: 'bbox' missing, made from the mask: 1",
    ),
    "a category listed again": (
        lambda content: content["categories"].append(dict(content["categories"][0])),
        "noted: category listed again: 1",
    ),
    "a root category": (
        lambda content: (
            every("categories")(content),
            [category.update(supercategory="animals") for category in content["categories"]],
            content["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"}),
        ),
        "noted: root category: 1",
    ),
    "a root category with the name of a class": (
        lambda content: content["categories"].insert(
            0, {"id": 0, "name": "dog", "supercategory": "none"}
        ),
        "noted: root category: 1",
    ),
    "a number as a name": (
        edit("images", 1, file_name=12),
        "converted: images: 'file_name' written as int: 1",
        "noted: image with another name on disk: 1",
    ),
    "a URL without a file name": image(
        file_name="", coco_url="https://host/upload/11.png?token=a/b"
    ),
}


@pytest.mark.parametrize("case", EQUIVALENT_FORMS)
def test_other_forms_of_the_same_content_are_read_as_the_same_objects(read, case):
    change, *notes = (
        EQUIVALENT_FORMS[case]
        if isinstance(EQUIVALENT_FORMS[case], tuple)
        else (EQUIVALENT_FORMS[case],)
    )
    content = valid_content()
    expected, expected_notes = read(copy.deepcopy(content))
    assert expected_notes == ()
    change(content)
    annotations, actual_notes = read(content, strict=True)
    assert list(actual_notes) == notes
    assert [c["name"] for c in annotations.categories] == ["dog", "cat", "bird"]
    assert annotations.image_files == expected.image_files
    for key in ("image_id", "category_id", "bbox"):
        assert [a[key] for a in annotations.annotations] == [
            a[key] for a in expected.annotations
        ], key
    assert [bool(a.get("iscrowd")) for a in annotations.annotations] == [0, 0, 0, 1]
    assert all(a.get("area") in (None, 9.5) for a in annotations.annotations)


LEFT_OUT = {
    "a box without width": ([2, 2, 0, 4], "left out: box without size: 1"),
    "a box of negative height": ([5, 5, 3, -4], "left out: box without size: 1"),
    "NaN": ([1, 2, 3, math.nan], "left out: box that is missing, NaN or infinite: 1"),
    "infinity": ([1, 2, math.inf, 4], "left out: box that is missing, NaN or infinite: 1"),
    "null": ([1, 2, None, 4], "left out: box that is missing, NaN or infinite: 1"),
    "NaN as text": (["1", "nan", 3, 4], "left out: box that is missing, NaN or infinite: 1"),
    "an integer beyond floats": (
        [1, 2, 3, 10**400],
        "left out: box that is missing, NaN or infinite: 1",
    ),
    "an empty box": ([], "left out: box that is missing, NaN or infinite: 1"),
    "a box outside": ([41, 2, 9, 9], "left out: box outside its image: 1"),
    "a box above": ([1, -12, 9, 9], "left out: box outside its image: 1"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_an_object_without_a_usable_box_is_left_out_and_counted(read, case):
    box, note = LEFT_OUT[case]
    content = valid_content()
    annotation(bbox=box, segmentation=...)(content)
    annotations, notes = read(content)
    assert [a["id"] for a in annotations.annotations] == [2, 3, 4]
    assert notes[-1] == note
    (fault,) = annotations.faults.rows
    assert (fault.place, fault.id, fault.image) == ("annotations[0]", 1, 11)
    with pytest.raises(
        UserError, match=r"annotation 1 \(annotations\[0\]\): .*; --strict refuses this"
    ):
        read(content, strict=True)


@pytest.mark.parametrize(
    ("box", "expected", "note"),
    [
        ([-3, 2, 23, 10], [0, 2, 20, 10], "corrected: box clipped to its image: 1"),
        ([30, 20, 12, 14], [30, 20, 10, 10], "corrected: box clipped to its image: 1"),
        ([30, 2, 40, 10], [30, 2, 10, 10], "cut to under half: box clipped to its image: 1"),
        ([-1, 2, 30, 10], [-1, 2, 30, 10], None),  # converters round by up to a pixel
    ],
)
def test_a_box_that_extends_beyond_its_image_is_clipped_and_counted(read, box, expected, note):
    content = valid_content()
    annotation(bbox=box)(content)
    annotations, notes = read(content)
    assert annotations.annotations[0]["bbox"] == expected
    assert notes == (() if note is None else (note,))
    if note is not None:
        with pytest.raises(UserError, match="sticks out of its image of 40 x 30"):
            read(content, strict=True)


RLE = {**RLE_SIZE, "counts": [0, 6, 1194]}
MASKS = {
    "a flat list": (POLYGON[0], POLYGON, None),
    "an empty polygon": ([[]], [], None),
    "an empty polygon next to another": ([[], *POLYGON], POLYGON, None),
    "a polygon of two points": ([[1, 2, 3, 4]], [], "mask dropped"),
    "one of two polygons has only a point": ([*POLYGON, [1, 2]], POLYGON, "polygon dropped"),
    "half a point": ([[1, 2, 3, 4, 5, 6, 7]], [], "mask dropped"),
    "no area": ([[3, 3, 9, 3, 20, 3]], [], "mask dropped"),
    "points on a diagonal": ([[1, 1, 5, 5, 9, 9]], [], "mask dropped"),
    "NaN": ([[1, 2, 3, 4, 5, math.nan]], [], "mask dropped"),
    "text": ("RLE", [], "mask dropped"),
    "far away": (FAR_POLYGON, [], "mask dropped"),
    "another size": ({"size": [40, 30], "counts": [0, 6, 1194]}, [], "mask dropped"),
    "counts that do not sum to the area": ({**RLE_SIZE, "counts": [0, 7]}, [], "mask dropped"),
    "no counts": (RLE_SIZE, [], "mask dropped"),
    "broken counts": ({**RLE_SIZE, "counts": "no RLE"}, [], "mask dropped"),
    "a size of floats": ({"size": [30.0, 40.0], "counts": [0, 6, 1194]}, RLE, None),
}


@pytest.mark.parametrize("case", MASKS)
def test_an_unusable_mask_is_dropped_and_the_object_keeps_its_box(read, case):
    mask, expected, kind = MASKS[case]
    content = valid_content()
    annotation(segmentation=mask)(content)
    annotations, notes = read(content)
    first = annotations.annotations[0]
    assert first["segmentation"] == expected and first["bbox"] == [2, 2, 10, 10.5]
    if type(expected) is dict:
        assert all(type(side) is int for side in first["segmentation"]["size"])
    assert notes == (() if kind is None else (f"corrected: {kind}: 1",))
    # Masks are not checked if the model does not learn masks.
    without, notes = read(content, masks=False, strict=True)
    assert notes == ()
    (record, *_) = to_records(without, {5: 0, 9: 1, 40: 2})
    assert "segmentation" not in record["annotations"][0]


def test_an_object_with_the_ignore_flag_becomes_a_crowd(read):
    content = valid_content()
    annotation(ignore=1)(content)
    edit("annotations", 1, ignore="0")(content)
    for options in ({}, {"crowds_are_objects": True}):
        annotations, notes = read(content, **options)
        assert [a.get("iscrowd", 0) for a in annotations.annotations][:3] == [1, 0, 0]
        assert "noted: object to ignore, treated as a crowd: 1" in notes


def test_the_option_crowds_are_objects_turns_crowds_into_objects(read):
    annotations, notes = read(valid_content(), crowds_are_objects=True)
    assert not any(a.get("iscrowd") for a in annotations.annotations)
    assert notes == ("noted: crowd, treated as an object: 1",)
    content = valid_content()
    every("annotations")(content)
    for entry in content["annotations"]:
        entry["iscrowd"] = 1
    with pytest.raises(UserError, match="all annotations are crowds.*--crowds-are-objects"):
        read(content)
    assert len(read(content, crowds_are_objects=True)[0].annotations) == 4


def test_an_image_size_of_null_counts_as_missing_if_sizes_are_optional():
    content = valid_content()
    content["images"][2]["width"] = None
    options = ReadOptions(needs_sizes=False)
    images = check_content(content, "own.json", options).images
    assert "width" not in images[2] and images[1]["width"] == 40


def test_a_file_with_a_byte_order_mark_is_accepted(read, tmp_path):
    read(valid_content())
    path = tmp_path / "own.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_annotations(path).annotations) == 4


@pytest.mark.parametrize(
    "names",
    [
        {11: "6f9619ff-8b86-d011", 12: "img-2", 13: "img-3"},
        {11: "007", 12: "7", 13: 8},
        {11: 2**53 + 1, 12: 2**53 + 2, 13: 2**70},
        {11: "12345678901234567890", 12: 2, 13: "b"},
    ],
    ids=["UUID", "zeros", "beyond floats", "mixed"],
)
def test_image_ids_may_be_text_or_large_numbers(read, names):
    content = valid_content()
    every("images", id=names.get)(content)
    every("annotations", image_id=names.get)(content)
    annotations, notes = read(content)
    assert [len(i["file_name"]) for i in annotations.images] == [6] * 3
    expected = [7 if names[12] == "7" else names[12]] * 2
    assert [a["image_id"] for a in annotations.annotations][2:] == expected
    assert annotations.images[0]["id"] == names[11]


def test_ids_that_are_equal_after_conversion_raise_user_error(read):
    content = valid_content()
    image(id="12")(content)
    with pytest.raises(UserError, match="another image has the id 12"):
        read(content)


def test_category_ids_in_lvis_lists_are_converted_to_integers(read, tmp_path):
    content = valid_content(lvis=True)
    for entry in content["images"]:
        entry["neg_category_ids"] = ["9", 5.0]
    annotations, _ = read(content)
    assert annotations.images[0]["neg_category_ids"] == [9, 5]
    assert all(type(i) is int for i in annotations.images[0]["neg_category_ids"])


def content_with_faults(count, total, box=(2, 2, 0, 4)):
    """Return a COCO JSON with ``total`` objects; the first ``count`` have a faulty box."""
    content = valid_content()
    content["annotations"] = [
        {
            "id": i,
            "image_id": 13,
            "category_id": 5,
            "bbox": list(box) if i < count else [3, 3, 9, 9],
        }
        for i in range(total)
    ]
    return content


@pytest.mark.parametrize(
    ("count", "total", "is_accepted"),
    [
        (10, 11, True),  # at most 10
        (11, 12, False),
        (11, 219, False),  # 5.02%
        (11, 220, True),  # 5%
        (12, 239, False),
        (25, 500, True),
        (26, 500, False),
    ],
)
@pytest.mark.parametrize("box", [(2, 2, 0, 4), (39, 3, 9, 9)], ids=["left out", "cut"])
def test_a_file_with_more_than_10_and_more_than_5_percent_faulty_objects_is_rejected(
    read, count, total, is_accepted, box
):
    content = content_with_faults(count, total, box)
    if is_accepted:
        assert read(content)[1][0].endswith(f": {count}")
        with pytest.raises(UserError, match=f"{count} faults .*--max-faults {count} accepts this"):
            read(content, max_faults=count - 1)
    else:
        with pytest.raises(UserError, match=f"{count} faults .*--max-faults {count} acc") as caught:
            read(content)
        assert len(str(caught.value).splitlines()) == 11  # the first ten
        assert read(content, max_faults=count)[1][0].endswith(f": {count}")


def test_boxes_that_are_clipped_by_less_than_half_do_not_count_against_the_limit(read):
    annotations, notes = read(content_with_faults(100, 100, (33, 3, 10, 9)))
    assert notes == ("corrected: box clipped to its image: 100",)
    assert annotations.annotations[0]["bbox"] == [33, 3, 7, 9]


def test_a_negative_fault_limit_raises_user_error():
    with pytest.raises(UserError, match="--max-faults: expected at least 0, got -1"):
        ReadOptions(max_faults=-1)


def test_a_file_without_usable_annotations_raises_user_error(read):
    content = content_with_faults(3, 3)
    with pytest.raises(UserError, match="all annotations are faulty and left out"):
        read(content)
