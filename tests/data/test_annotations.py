"""Validation of COCO and LVIS JSON before training: every fault has a one-line message."""

import copy
import json
import logging

import pytest
from PIL import Image

from ranking_det.data.coco_json.reader import check_same_categories, read_annotations
from ranking_det.data.coco_json.rules import FLAT, FORGIVEN
from ranking_det.user_errors import UserError
from tests.data.cases import IDS, NAMES, valid


@pytest.fixture
def write(tmp_path):
    """Write a file and the three images; return the paths."""
    images = tmp_path / "images"
    images.mkdir()
    for i in (11, 12, 13):
        Image.new("RGB", (40, 30)).save(images / f"{i}.png")

    def do(content):
        path = tmp_path / "own.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path, images

    return do


@pytest.mark.parametrize("lvis", [False, True], ids=["coco", "lvis"])
def test_a_valid_file_is_summarised(write, lvis):
    summary = read_annotations(*write(valid(lvis)))
    assert summary.format == ("lvis" if lvis else "coco")
    assert (summary.category_ids, summary.class_names) == (IDS, NAMES)
    assert summary.image_counts == (IDS if lvis else ())
    counts = (summary.num_images, summary.num_empty_images, summary.num_objects)
    assert counts == (3, 1, 3)


@pytest.mark.parametrize("place", ["val2017", "", "url"])
def test_lvis_images_are_found_by_the_last_one_or_two_parts_of_their_url(write, place):
    path, images = write(valid(lvis=True))
    if place:
        (images / "val2017").mkdir()
        (images / "11.png").rename(images / "val2017" / "11.png")
    if place == "url":
        (images / "val2017" / "11.png").rename(images / "val2017" / "other.png")
        with pytest.raises(UserError, match=r"no image file at \S+/val2017/11.png or \S+/11.png"):
            read_annotations(path, images)
    else:
        assert read_annotations(path, images).num_images == 3


def test_a_16_bit_image_is_refused_because_it_would_be_loaded_as_white(write):
    path, images = write(valid())
    Image.new("I;16", (40, 30)).save(images / "12.png")
    with pytest.raises(UserError, match="image 12 .*12.png has pixels of more than 8 bits"):
        read_annotations(path, images)


def edit(*keys, **values):
    """Return a mutation: content[keys...].update(values), where None removes a key."""

    def apply(content):
        entry = content
        for key in keys:
            entry = entry[key]
        for key, value in values.items():
            if value is None:
                del entry[key]
            else:
                entry[key] = value

    return apply


def add(section, **values):
    """Return a mutation that appends a copy of the first entry with these values."""
    return lambda content: content[section].append(content[section][0] | values)


def image(**values):
    return edit("images", 0, **values)


def annotation(**values):
    return edit("annotations", 0, **values)


def category(**values):
    return edit("categories", 0, **values)


FAULTS = [
    (edit(images=None), "own.json: has no 'images'"),
    (edit(categories=None), "own.json: has no 'categories'"),
    (edit(annotations={}), "own.json: 'annotations': expected a list, got dict"),
    (edit(categories=[]), "own.json: 'categories' is empty"),
    (edit(images=[]), "own.json: 'images' is empty"),
    (edit(annotations=[]), "own.json: 'annotations' is empty"),
    (category(name=None), r"category 40 \(categories\[0\]\): has no 'name'"),
    (category(name=3), "category 40 .*'name': expected a string, got 3"),
    (category(name=" "), "category 40 .*'name': expected more than white space, got ' '"),
    (
        category(name="\ud800"),
        r"category 40 .*'name': expected characters that UTF-8 can encode, got '\\ud800'",
    ),
    (category(name="dog"), "category 5 .*category 40 has the same name, 'dog'"),
    (add("categories", name="x"), "category 40 .*another category has the id 40"),
    (add("categories", id=True), "category True .*'id': expected an integer, got True"),
    (image(width=None), r"image 11 \(images\[0\]\): has no 'width'"),
    (image(width=40.0), "image 11 .*'width': expected an integer, got 40.0"),
    (image(height=0), "image 11 .*'height': expected 1 to 65535, got 0"),
    (add("images"), "image 11 .*another image has the id 11"),
    (image(file_name=None), "image 11 .*has no 'file_name'"),
    (image(file_name="a.png"), "image 11 .*no image file at .*images/a.png"),
    (image(width=41), "image 11 .*expected 40 x 30 as in .*11.png, got 41 x 30"),
    (annotation(id=None), r"own.json: annotations\[0\]: has no 'id'"),
    (annotation(id="1"), "annotation '1' .*'id': expected an integer, got '1'"),
    (annotation(id=2), "annotation 2 .*another annotation has the id 2"),
    (annotation(image_id=99), "annotation 1 .*'image_id': expected the id of an image .*, got 99"),
    (
        annotation(category_id=1),
        "annotation 1 .*'category_id': expected the id of a category .*, got 1",
    ),
    (annotation(bbox=None), "annotation 1 .*has no 'bbox'"),
    (annotation(bbox=[1, 2, 3]), r"annotation 1 .*expected 4 numbers.* got \[1, 2, 3\]"),
    (annotation(bbox=[1, 2, 3, "4"]), "annotation 1 .*expected 4 numbers"),
    (annotation(bbox=[1, 2, 3, float("nan")]), "annotation 1 .*'bbox': expected finite numbers"),
    (annotation(bbox=[1, 2, float("inf"), 4]), "annotation 1 .*'bbox': expected finite numbers"),
    (annotation(bbox=[1, 2, 0, 4]), "annotation 1 .*expected positive .* got .1, 2, 0, 4"),
    (annotation(bbox=[5, 5, 3, -4]), "annotation 1 .*expected positive width and height"),
    (
        annotation(bbox=[-1.5, 2, 3, 4]),
        "annotation 1 .*inside image 11 of 40 x 30, got .*, outside by 1.5 pix",
    ),
    (annotation(bbox=[9, 8, 38, 28]), "annotation 1 .*by 7 pixels; is it x1, y1, x2, y2 instead"),
    (annotation(iscrowd=2), "annotation 1 .*'iscrowd': expected 0 or 1, got 2"),
    (annotation(ignore=1), "annotation 1 .*'ignore' has no effect"),
    (annotation(area=-1), "annotation 1 .*'area': expected a finite number of at least 0"),
    (annotation(segmentation=[1, 2, 3, 4, 5, 6]), "annotation 1 .*expected a list of polygons"),
    (
        annotation(segmentation=[[1, 2, 3, 4]]),
        r"annotation 1 .*'\[0\]: expected .* 3 points, got 4 numbers",
    ),
    (annotation(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "annotation 1 .*got 7 numbers"),
    (annotation(segmentation=[[1, 2, 3, 4, 5, float("nan")]]), "annotation 1 .*finite"),
    (edit("annotations", 3, "segmentation", size=[40, 30]), r"annotation 4 .*\[30, 40\], got"),
    (edit("annotations", 3, "segmentation", counts=[0, 7]), "annotation 4 .*sum to the image"),
    (edit("annotations", 3, "segmentation", counts=None), "annotation 4 .*a list or a string"),
    (
        edit("annotations", 3, "segmentation", counts="no RLE"),
        "annotation 4 .*runs that sum to 12",
    ),
    (
        annotation(segmentation=[[1, 2, 3, 4, 1e9, 5]]),
        "annotation 1 .*at most an image away from",
    ),
    (annotation(area=10**400), "annotation 1 .*'area': expected a finite number of at least 0"),
]
LVIS_FAULTS = [
    (image(neg_category_ids=None), "image 11 .*has no 'neg_category_ids'"),
    (
        image(neg_category_ids=[7]),
        "image 11 .*'neg_category_ids': expected ids of categories, got 7",
    ),
    (category(image_count=None), "category 40 .*has no 'image_count'"),
    (category(frequency="x"), "category 40 .*'frequency': expected 'r', 'c' or 'f', got 'x'"),
]


@pytest.mark.parametrize(
    ("lvis", "mutate", "message"),
    [(False, *fault) for fault in FAULTS] + [(True, *fault) for fault in LVIS_FAULTS],
    ids=[message for _, message in FAULTS + LVIS_FAULTS],
)
def test_a_single_fault_gives_a_one_line_error_that_names_the_file_and_the_entry(
    write, lvis, mutate, message
):
    content = valid(lvis)
    mutate(content)
    with pytest.raises(UserError, match=message) as caught:
        read_annotations(*write(content))
    assert "own.json: " in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [\n  1,, 2]}', "own.json: invalid JSON: .* at line 2, column 5"),
        ("[]", "own.json: expected an object with categories, images, annotations, got list"),
        ("\ufeff{}", "own.json: invalid JSON: Unexpected UTF-8 BOM"),
    ],
)
def test_a_file_without_a_json_object_is_refused(write, text, message):
    with pytest.raises(UserError, match=message):
        read_annotations(*write(text))


def test_the_error_names_missing_files_and_folders(write, tmp_path):
    path, images = write(valid())
    for arguments, message in [
        ((tmp_path / "no.json", images), "no.json' does not exist"),
        ((images, images), "images' is a folder, not a file"),
        ((path, tmp_path / "no"), "image folder .*no' does not exist"),
        ((path, path), "image folder .*own.json' is a file"),
    ]:
        with pytest.raises(UserError, match=message):
            read_annotations(*arguments)


def test_a_broken_image_is_a_fault(write):
    path, images = write(valid())
    whole = (images / "12.png").read_bytes()
    for content in (b"", b"no image", whole[:20]):
        (images / "12.png").write_bytes(content)
        with pytest.raises(UserError, match=r"image 12 .*12.png cannot be read"):
            read_annotations(path, images)


def test_the_exif_rotation_is_applied_before_the_image_size_is_checked(write):
    path, images = write(valid())
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(images / "12.png", "JPEG", exif=exif)
    with pytest.raises(UserError, match="image 12 .*expected 30 x 40 as in .*, got 40 x 30"):
        read_annotations(path, images)
    Image.new("RGB", (30, 40)).save(images / "12.png", "JPEG", exif=exif)
    read_annotations(path, images)


def test_all_faults_are_counted_and_the_first_ten_are_shown(write):
    content = valid()
    far, unknown = ([100, 2, 3, 4], 5), ([2, 2, 3, 4], 77)
    for i, (bbox, class_id) in enumerate([far] * 20 + [unknown] * 4):
        content["annotations"].append(
            {"id": 100 + i, "image_id": 13, "category_id": class_id, "bbox": bbox}
        )
    content["images"][0]["file_name"] = "gone.png"
    with pytest.raises(UserError) as caught:
        read_annotations(*write(content))
    head, *lines = str(caught.value).split("\n")
    kinds = "(box outside the image 20, unknown category 4, missing image file 1)"
    assert head.endswith(f"own.json: 25 faults {kinds}; the first 10:")
    assert len(lines) == 10
    assert "own.json: image 11 (images[0]): no image file at" in lines[0]
    assert "own.json: annotation 100 (annotations[4]): " in lines[1]


def test_a_reference_to_a_faulty_entry_is_not_a_fault(write):
    content = valid()
    del content["images"][0]["height"], content["categories"][-1]["name"]
    with pytest.raises(UserError, match=r"2 faults \(missing key 2\):"):
        read_annotations(*write(content))


def test_a_file_with_only_crowds_is_refused(write):
    content = valid()
    content["annotations"] = content["annotations"][-1:]
    with pytest.raises(UserError, match="own.json: all annotations are crowds"):
        read_annotations(*write(content))


def test_a_few_boxes_without_area_give_only_a_warning(write, caplog, monkeypatch):
    monkeypatch.setitem(FORGIVEN, FLAT, 1 / 20)
    content = valid()
    many = [dict(content["annotations"][2], id=10 + i) for i in range(25)]
    content["annotations"] += many
    many[7]["bbox"] = [2, 2, 5, 0]
    with caplog.at_level(logging.WARNING):
        read_annotations(write(content)[0])
    assert "own.json: boxes without width or height: 1" in caplog.text
    many[8]["bbox"] = [2, 2, 5, 0]
    with pytest.raises(UserError, match=r"own.json: 2 faults \(box without area 2\)"):
        read_annotations(write(content)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "wolf"}, "category 5 is 'dog' in .*own.json and 'wolf' in .*own.json"),
        ({"id": 6}, "category 5 is 'dog' in .*own.json and missing in .*own.json"),
    ],
)
def test_training_and_validation_must_have_the_same_categories(write, change, message):
    content = valid()
    train = read_annotations(write(content)[0])
    shuffled = copy.deepcopy(content)
    shuffled["categories"].reverse()
    check_same_categories(train, read_annotations(write(shuffled)[0]))
    content["categories"][-1].update(change)
    for entry in content["annotations"]:
        entry["category_id"] = 9
    with pytest.raises(UserError, match=message):
        check_same_categories(train, read_annotations(write(content)[0]))
