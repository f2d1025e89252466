"""Validation of COCO and LVIS JSON before training: every fault has a one-line message."""

import json
import re

import pytest
from PIL import Image

from ranking_det.data.coco_json.reader import match_classes, release_annotations
from ranking_det.data.images import set_max_pixels
from ranking_det.user_errors import UserError
from tests.data.cases import IDS, NAMES, read_summary, valid_content, write_truncated_image


@pytest.fixture
def write(tmp_path):
    """Write a file and the three images; return the paths."""
    images = tmp_path / "images"
    images.mkdir()
    for i in (11, 12, 13):
        Image.new("RGB", (40, 30)).save(images / f"{i}.png")

    def write_files(content):
        path = tmp_path / "own.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path, images

    return write_files


def read_again(path, images, **options):
    """Read a file whose images have changed."""
    release_annotations(path)
    return read_summary(path, images, **options)


@pytest.mark.parametrize("lvis", [False, True], ids=["coco", "lvis"])
def test_the_summary_of_a_valid_file_has_its_format_classes_and_counts(write, lvis):
    summary = read_summary(*write(valid_content(lvis)))
    assert summary.format == ("lvis" if lvis else "coco")
    assert (summary.category_ids, summary.class_names) == (IDS, NAMES)
    assert summary.image_counts == (IDS if lvis else ())
    counts = (summary.num_images, summary.num_empty_images, summary.num_objects)
    assert counts == (3, 1, 3)


@pytest.mark.parametrize("place", ["val2017", "", "url"])
def test_lvis_images_are_found_by_the_last_one_or_two_parts_of_their_url(write, place):
    path, images = write(valid_content(lvis=True))
    if place:
        (images / "val2017").mkdir()
        (images / "11.png").rename(images / "val2017" / "11.png")
    if place == "url":
        (images / "val2017" / "11.png").rename(images / "val2017" / "other.png")
        with pytest.raises(UserError, match=r"no image file at \S+/val2017/11.png or \S+/11.png"):
            read_summary(path, images)
    else:
        assert read_summary(path, images).num_images == 3


def test_a_16_bit_image_is_noted_and_a_floating_point_image_is_rejected(write):
    path, images = write(valid_content())
    Image.new("I;16", (40, 30)).save(images / "12.png")
    assert "noted: image with 16 bits: 1" in read_again(path, images).notes
    Image.new("F", (40, 30)).save(images / "12.png", "TIFF")
    with pytest.raises(UserError, match="image 12 .*12.png has floating-point pixels; save it"):
        read_again(path, images)


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
    (edit(images=None), "own.json: has no 'images', which COCO and LVIS files have"),
    (edit(categories=None), "own.json: has no 'categories'"),
    (edit(annotations={}), "own.json: 'annotations': expected a list, got dict"),
    (edit(categories=[]), "own.json: 'categories' is empty"),
    (edit(images=[]), "own.json: 'images' is empty"),
    (edit(annotations=[]), "own.json: 'annotations' is empty"),
    (category(name=None), r"category 40 \(categories\[0\]\): has no 'name'"),
    (category(name=" "), "category 40 .*'name': expected more than white space, got ' '"),
    (
        category(name="\ud800"),
        r"category 40 .*'name': expected characters that UTF-8 can encode, got '\\ud800'",
    ),
    (category(name="dog"), "category 5 .*category 40 has the same name, 'dog'"),
    (add("categories", name="x"), "category 40 .*another category has the id 40"),
    (add("categories", id=True), "category True .*'id': expected an integer or text, got True"),
    (image(width=None), r"image 11 \(images\[0\]\): has no 'width'"),
    (image(height=0), "image 11 .*'height': expected 1 to 65535, got 0"),
    (add("images"), "image 11 .*another image has the id 11"),
    (image(file_name=None), "image 11 .*has neither 'file_name'"),
    (image(file_name="a.png"), "image 11 .*no image file at .*images/a.png"),
    (image(width=41), "image 11 .*expected 40 x 30 as in .*11.png, got 41 x 30"),
    (annotation(image_id=99), "annotation 1 .*'image_id': expected the id of an image .*, got 99"),
    (
        annotation(category_id=1),
        "annotation 1 .*'category_id': expected the id of a category .*, got 1",
    ),
    (annotation(bbox=[1, 2, 3, "wide"]), "annotation 1 .*expected 4 numbers"),
    (annotation(bbox=[1, 2, 3]), r"annotation 1 .*expected 4 numbers.* got \[1, 2, 3\]"),
    (annotation(iscrowd=2), "annotation 1 .*'iscrowd': expected 0 or 1, got 2"),
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
    content = valid_content(lvis)
    mutate(content)
    with pytest.raises(UserError, match=message) as caught:
        read_summary(*write(content))
    assert "own.json: " in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [\n  1,, 2]}', "own.json: invalid JSON: .* at line 2, column 5"),
        ("[]", "own.json: expected an object with categories, images, annotations, got list"),
    ],
)
def test_invalid_json_or_a_json_list_raises_user_error(write, text, message):
    with pytest.raises(UserError, match=message):
        read_summary(*write(text))


def test_the_error_names_missing_files_and_folders(write, tmp_path):
    path, images = write(valid_content())
    for arguments, message in [
        ((tmp_path / "no.json", images), "no.json' does not exist"),
        ((images, images), "images' is a folder, not a file"),
        ((path, tmp_path / "no"), "image folder .*no' does not exist"),
        ((path, path), "image folder .*own.json' is a file"),
    ]:
        with pytest.raises(UserError, match=message):
            read_summary(*arguments)


def test_an_image_with_a_broken_header_is_skipped_and_counted(write):
    path, images = write(valid_content())
    whole = (images / "12.png").read_bytes()
    for content, reason in [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>", "a web page, not an image"),
        (b"no image", "not an image, or an unknown format"),
        (b"II*\0", "a TIFF of a kind that Pillow cannot read"),
        (whole[:20], ""),
    ]:
        (images / "12.png").write_bytes(content)
        summary = read_again(path, images)
        assert "skipped: unreadable image: 1" in summary.notes
        (fault,) = [fault for fault in summary.faults if fault.kind == "unreadable image"]
        assert (fault.id, fault.place) == (12, "images[1]") and f"read ({reason}" in fault.text
        with pytest.raises(UserError, match=r"12.png cannot be read .*; --strict refuses this"):
            read_again(path, images, strict=True)


def test_decoding_images_detects_a_truncated_image(write):
    path, images = write(valid_content())
    write_truncated_image(images / "12.png", (40, 30))
    assert not any("unreadable" in note for note in read_again(path, images).notes)
    remark, count, *_ = read_again(path, images, max_decoded=3).notes
    assert re.fullmatch(r"decoded 3 of 3 images in \d.\d s; 1 of them cannot be read", remark)
    assert count == "skipped: unreadable image: 1"
    # A sample of two takes the first and the last image; the second is the truncated one.
    assert read_again(path, images, max_decoded=2).notes[0].startswith("decoded 2 of 3 images")


def test_a_file_with_many_or_only_unreadable_images_is_rejected(write):
    content = valid_content()
    image = content["images"][0]
    content["images"] += [{**image, "id": i, "file_name": f"{i}.png"} for i in range(100, 120)]
    path, images = write(content)
    for i in range(110, 120):
        Image.new("RGB", (40, 30)).save(images / f"{i}.png")
    for i in range(100, 110):
        (images / f"{i}.png").write_bytes(b"")
    assert "skipped: unreadable image: 10" in read_again(path, images).notes
    (images / "110.png").write_bytes(b"")
    message = r"11 faults \(unreadable image 11\); --max-faults 11 accepts this \(23 images"
    with pytest.raises(UserError, match=message):
        read_again(path, images)
    assert "skipped: unreadable image: 11" in read_again(path, images, max_faults=11).notes
    for image in content["images"]:
        (images / image["file_name"]).write_bytes(b"")
    with pytest.raises(UserError, match="none of the opened images can be read"):
        read_again(path, images, max_faults=100)


def test_the_error_for_too_many_pixels_names_the_flag_that_permits_them(write, monkeypatch):
    path, images = write(valid_content())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    set_max_pixels(1200)
    assert not any("unreadable" in note for note in read_again(path, images, strict=True).notes)
    set_max_pixels(1199)
    (images / "12.png").write_bytes((images / "12.png").read_bytes())  # for a new file time
    with pytest.raises(UserError, match="it has more than 1199 pixels; --max-pixels N permits"):
        read_again(path, images)


def test_image_sizes_before_and_after_the_exif_rotation_are_accepted(write):
    path, images = write(valid_content())
    exif, note = Image.Exif(), "noted: image read without its EXIF rotation: 1"
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(images / "12.png", "JPEG", exif=exif)
    assert note in read_again(path, images).notes
    Image.new("RGB", (30, 40)).save(images / "12.png", "JPEG", exif=exif)
    assert note not in read_again(path, images).notes
    Image.new("RGB", (31, 40)).save(images / "12.png", "JPEG", exif=exif)
    with pytest.raises(UserError, match="image 12 .*expected 40 x 31 as in .*, got 40 x 30"):
        read_again(path, images)


def test_all_faults_are_counted_and_the_first_ten_are_shown(write):
    content = valid_content()
    unknown, short = ([2, 2, 3, 4], 77), ([2, 2, 3], 5)
    for i, (bbox, class_id) in enumerate([unknown] * 20 + [short] * 4):
        content["annotations"].append(
            {"id": 100 + i, "image_id": 13, "category_id": class_id, "bbox": bbox}
        )
    content["images"][0]["file_name"] = "gone.png"
    with pytest.raises(UserError) as caught:
        read_summary(*write(content))
    head, *lines = str(caught.value).split("\n")
    kinds = "(unknown category 20, missing image file 1)"
    assert head.endswith(f"own.json: 21 faults {kinds}; the first 10:")
    assert len(lines) == 10
    assert "own.json: annotation 100 (annotations[4]): " in lines[0]


def test_a_reference_to_a_faulty_entry_is_not_counted_as_another_fault(write):
    content = valid_content()
    del content["images"][0]["height"], content["categories"][-1]["name"]
    with pytest.raises(UserError, match=r"2 faults \(missing key 2\):"):
        read_summary(*write(content))


def test_a_file_with_only_crowds_raises_user_error(write):
    content = valid_content()
    content["annotations"] = content["annotations"][-1:]
    with pytest.raises(UserError, match="own.json: all annotations are crowds"):
        read_summary(*write(content))


def match(train, val):
    return match_classes(train.class_names, val, train.json_file)


@pytest.mark.parametrize("lvis", [False, True], ids=["coco", "lvis"])
def test_validation_classes_are_matched_to_training_classes_by_name(write, lvis):
    content = valid_content(lvis)
    train = read_summary(write(content)[0])
    content["categories"].reverse()
    assert match(train, read_summary(write(content)[0])) == {5: 0, 9: 1, 40: 2}
    dog, _, bird = content["categories"]
    content["categories"] = [dog | {"id": 9}, bird | {"id": 3}]
    for entry in content["annotations"]:
        entry["category_id"] = 9
    assert match(train, read_summary(write(content)[0])) == {9: 0, 3: 2}


def test_the_error_for_an_unknown_validation_class_suggests_the_nearest_name(write):
    content = valid_content()
    train = read_summary(write(content)[0])
    content["categories"][0]["name"] = "birds"
    message = r"own.json: category 40: expected a class of .*own.json, got 'birds' .*mean 'bird'"
    with pytest.raises(UserError, match=message):
        match(train, read_summary(write(content)[0]))
