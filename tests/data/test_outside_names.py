"""Path traversal: the image names of a JSON cannot leave the image folder."""

import json
import os

import pytest
from PIL import Image

from ranking_det.data.catalog import load_set, register_annotations, register_set
from ranking_det.engine import main
from ranking_det.user_errors import UserError
from tests.data.cases import read_summary

CONFIG = "configs/shapes/quick/retinanet_atss_rs.py"
NAME = "set_with_outside_names"


@pytest.fixture
def write(tmp_path):
    """Write a JSON whose second image has a given name; return its path and the image folder."""
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for place in (".", "images", "images/deep"):
        Image.new("RGB", (8, 8)).save(tmp_path / place / "a.png")

    def write_file(**name):
        size = {"width": 8, "height": 8}
        content = {
            "categories": [{"id": 1, "name": "x"}],
            "images": [{"id": 1, "file_name": "a.png"} | size, {"id": 2} | size | name],
            "annotations": [
                {"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 4, 4]} for i in (1, 2)
            ],
        }
        (tmp_path / "a.json").write_text(json.dumps(content))
        return str(tmp_path / "a.json"), str(tmp_path / "images")

    return write_file


OUTSIDE_NAMES = [
    {"file_name": "/etc/hostname"},
    {"file_name": "//etc/hostname"},
    {"file_name": "../a.png"},
    {"file_name": ".."},
    {"file_name": "deep/../../a.png"},
    {"file_name": "..\\a.png"},
    {"file_name": "deep\\..\\..\\a.png"},
    {"file_name": "deep/..\\..\\a.png"},
    {"file_name": "\\\\host\\share\\a.png"},
    {"file_name": "C:\\a.png"},
    {"file_name": "a.png\0.jpg"},
    {"coco_url": "http://host/../a.png"},
    {"coco_url": "http://host/x/.."},
    {"file_name": "a.png", "coco_url": "http://host/../a.png"},
]


@pytest.mark.parametrize("name", OUTSIDE_NAMES, ids=str)
def test_a_name_that_leaves_the_folder_gives_a_one_line_error_with_the_count(write, name):
    path, images = write(**name)
    with pytest.raises(UserError, match=r"1 of 2 images lies outside .*images\[1\]") as caught:
        read_summary(path, images)
    assert "\n" not in str(caught.value) and "--allow-outside" in str(caught.value)
    # Loading a registered data set checks the names too.
    metadata = {"json_file": path, "image_root": images, "evaluator_type": "coco"}
    register_set(NAME, ["x"], {1: 0}, load_set, **metadata)
    with pytest.raises(UserError, match="1 of 2 images lies outside"):
        load_set(NAME)


@pytest.mark.parametrize(
    "name",
    [
        {"file_name": "deep/a.png"},
        {"file_name": "./deep//a.png"},
        {"file_name": "deep/../a.png"},
        {"file_name": "link/a.png"},
        {"coco_url": "http://host//deep//a.png"},
        {"coco_url": "http://host//a.png"},
    ],
    ids=str,
)
def test_names_inside_the_image_folder_are_found_and_links_are_followed(write, tmp_path, name):
    (tmp_path / "images" / "link").symlink_to(tmp_path)
    assert read_summary(*write(**name)).num_images == 2


def test_a_parent_folder_after_a_link_does_not_leave_the_image_folder(write, tmp_path):
    (tmp_path / "other" / "deep").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "other" / "secret.png")
    (tmp_path / "images" / "link").symlink_to(tmp_path / "other" / "deep")
    path, images = write(file_name="link/../secret.png")
    with pytest.raises(UserError, match="no image file at"):
        read_summary(path, images)


@pytest.mark.parametrize("absolute", [True, False])
def test_allow_outside_permits_names_outside_the_image_folder(write, tmp_path, absolute):
    outside = str(tmp_path / "a.png") if absolute else "../a.png"
    path, images = write(file_name=outside)
    summary = read_summary(path, images, allow_outside=True)
    register_annotations(NAME, images, summary)
    assert os.path.samefile(load_set(NAME)[1]["file_name"], tmp_path / "a.png")
    register_annotations(NAME, images, read_summary(path))
    with pytest.raises(UserError, match="--allow-outside"):
        load_set(NAME)


def test_an_impossible_file_name_is_a_missing_image_even_with_allow_outside(write):
    path, images = write(file_name="a\0/a.png")
    with pytest.raises(UserError, match="no image file at"):
        read_summary(path, images, allow_outside=True)


def test_the_flag_allow_outside_permits_names_outside_and_needs_annotation_files(write, capsys):
    path, images = write(file_name="../a.png")
    command = ["--config-file", CONFIG, "--preview", "1", "--train-json", path]
    command += ["--train-images", images]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 of 2 images lies outside the image folder" in line and "'../a.png'" in line
    # The files pass the check; the empty output folder is refused.
    assert main([*command, "--allow-outside", "train.output_dir="]) == 2
    assert "outside" not in capsys.readouterr().err
    assert main(["--config-file", CONFIG, "--allow-outside"]) == 2
    assert (
        "--allow-outside needs --train, --val, --train-json or --val-json"
        in capsys.readouterr().err
    )
