"""Find images whose names differ from those on disk, if exactly one file matches."""

import json
import unicodedata

import pytest
from PIL import Image

from ranking_det.data.coco_json.reader import ReadOptions, read_annotations, summarize
from ranking_det.user_errors import UserError

CAFE = "café_1.jpg"


@pytest.fixture
def read(tmp_path):
    """Write images and an annotation file with other names; return the matched paths and notes."""

    def read_names(on_disk, in_file, key="file_name"):
        for name in on_disk:
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(path, "PNG")
        images = [
            {"id": i, "width": 8, "height": 8, key: name} for i, name in enumerate(in_file, start=1)
        ]
        box = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}
        content = {"categories": [{"id": 1, "name": "x"}], "images": images, "annotations": [box]}
        (tmp_path / "own.json").write_text(json.dumps(content))
        annotations = read_annotations(tmp_path / "own.json", tmp_path / "images")
        root = f"{tmp_path}/images/"
        paths = [path.removeprefix(root) for path in annotations.image_files]
        return paths, summarize(annotations, ReadOptions()).notes

    return read_names


@pytest.mark.parametrize(
    ("on_disk", "in_file", "key", "is_noted"),
    [
        ("deep/a.jpg", "deep\\a.jpg", "file_name", False),
        ("a.jpg", "deep\\a.jpg", "file_name", True),
        ("a.jpg", "deep/a.jpg", "file_name", True),
        ("a b.jpg", "a%20b.jpg", "file_name", False),
        ("a%20b.jpg", "a%20b.jpg", "file_name", False),
        ("50%.jpg", "50%.jpg", "file_name", False),
        ("a b.jpg", "https://host/deep/a%20b.jpg?size=3", "coco_url", False),
        (unicodedata.normalize("NFD", CAFE), CAFE, "file_name", True),
        (CAFE, unicodedata.normalize("NFD", CAFE), "file_name", True),
        ("a.jpg", "A.jpg", "file_name", True),
        ("a.jpg", "a.JPG", "file_name", True),
        ("A.JPEG", "a.jpg", "file_name", True),
        ("a.png", "a.jpg", "file_name", True),
        ("a.jpg", "a", "file_name", True),
        ("deep/A.png", "deep\\a.jpg", "file_name", True),
    ],
)
def test_an_image_with_another_name_on_disk_is_found(read, on_disk, in_file, key, is_noted):
    paths, notes = read([on_disk], [in_file], key)
    assert paths == [on_disk]
    assert notes == (("noted: image with another name on disk: 1",) if is_noted else ())


def test_an_exact_file_name_takes_precedence(read):
    names = ["a.jpg", "A.jpg", "a.png", "a b.jpg", "a%20b.jpg"]
    assert read(names, names) == (names, ())


@pytest.mark.parametrize(
    ("on_disk", "in_file", "message"),
    [
        (["a.png", "a.jpeg"], ["a.jpg"], "no image file at .*a.jpg"),  # two candidates
        (["A.jpg", "a.JPG"], ["a.jpg"], "no image file at .*a.jpg"),
        (["image_12.jpg"], ["image_21.jpg"], r"image_21.jpg \(did you mean 'image_12.jpg'\?\)"),
        (["a.txt"], ["a.jpg"], "no image file at .*a.jpg"),
        # Two images with different names must not share a file.
        (["a.jpg"], ["a.jpg", "a.png"], "images/a.jpg is also the file of another image"),
        (["1.jpg"], ["x/1.jpg", "y/1.jpg"], "2 faults .*missing image file 2"),
    ],
)
def test_an_ambiguous_or_unknown_image_name_raises_user_error(read, on_disk, in_file, message):
    with pytest.raises(UserError, match=message):
        read(on_disk, in_file)


def test_max_headers_limits_how_many_image_files_are_opened(read, tmp_path):
    names = [f"{i}.jpg" for i in range(4)]
    read(names, names)
    for name in names[1:]:
        (tmp_path / "images" / name).write_bytes(b"no image")
    for max_headers in (0, 1):
        options = ReadOptions(max_headers=max_headers)
        read_annotations(tmp_path / "own.json", tmp_path / "images", options)
    options = ReadOptions(max_headers=2)
    annotations = read_annotations(tmp_path / "own.json", tmp_path / "images", options)
    assert [row.image for row in annotations.faults.rows] == [3]


def test_two_images_with_the_same_file_name_share_the_file(read):
    assert read(["a.jpg"], ["a.jpg", "a.jpg"]) == (["a.jpg"] * 2, ())
