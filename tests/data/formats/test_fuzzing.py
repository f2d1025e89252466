"""Fuzzing: damaged annotation files raise only UserError."""

import copy
import shutil

import pytest
import yaml
from hypothesis import strategies as st

from ranking_det.data.convert import main
from ranking_det.data.formats.sources import convert, find_source
from ranking_det.user_errors import UserError
from tests.data.cases import EXAMPLES, fuzz
from tests.data.formats import cases

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.floats(),
    st.sampled_from(["", "x", "1", "1.jpg", "nan"]),
    st.just([]),
    st.just({}),
    st.lists(st.one_of(st.integers(-9, 99), st.text(max_size=2)), max_size=7),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)

POLYGON = {"name": "polygon", "all_points_x": [1, 9, 9], "all_points_y": [1, 1, 5]}
VIA = {
    "1.jpg1": {
        "filename": "1.jpg",
        "regions": [
            cases.via_region(POLYGON, kind="cat"),
            cases.via_region({"name": "circle", "cx": 9, "cy": 9, "r": 3}, kind={"dog": True}),
        ],
    }
}
LABELME = {
    "imagePath": "1.jpg",
    "imageWidth": 64,
    "imageHeight": 48,
    "shapes": [
        {
            "label": "cat",
            "points": [[1, 1], [9, 1], [9, 5]],
            "shape_type": "polygon",
            "group_id": 1,
        },
        {"label": "dog", "points": [[1, 1], [9, 5]], "shape_type": "rectangle", "group_id": None},
    ],
}
COCO = cases.coco_content(["1.jpg"])


def paths_of(value, path=()):
    """Yield the path to each part of a JSON value."""
    yield path
    if not isinstance(value, (dict, list)):
        return
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield from paths_of(part, (*path, key))


def damage(data, content):
    """Drop or replace up to three parts of a JSON value."""
    content = copy.deepcopy(content)
    for _ in range(data.draw(st.integers(1, 3))):
        paths = [path for path in paths_of(content) if path]
        if not paths:
            break
        *above, key = data.draw(st.sampled_from(paths))
        parent = content
        for step in above:
            parent = parent[step]
        if data.draw(st.booleans()):
            del parent[key]
        else:
            parent[key] = data.draw(VALUES)
    return content


def read_all(root):
    """Read and convert a data set; UserError is the only exception that may occur."""
    try:
        source = find_source(str(root))
        for split in source.splits:
            convert(source, split)
    except UserError as error:
        assert str(error)


@EXAMPLES
@pytest.mark.parametrize("content", [VIA, LABELME], ids=["via", "labelme"])
def test_damaged_via_or_labelme_json_is_read_or_raises_user_error(tmp_path, content, examples):
    cases.make_image(tmp_path / "1.jpg")

    def check(data):
        cases.write_json(tmp_path / "1.json", damage(data, content))
        read_all(tmp_path)

    fuzz(examples, check, st.data())


@EXAMPLES
def test_damaged_coco_json_is_converted_or_rejected_without_output(tmp_path, capsys, examples):
    cases.make_image(tmp_path / "in" / "1.jpg")

    def check(data):
        cases.write_json(tmp_path / "in" / "1.json", damage(data, COCO))
        for target in ("coco", "yolo", "voc"):
            output = tmp_path / target
            code = main([str(tmp_path / "in"), "--output", str(output), "--to", target])
            assert code in (0, 2)
            assert output.exists() == (code == 0)
            shutil.rmtree(output, ignore_errors=True)

    fuzz(examples, check, st.data())


LINES = st.lists(
    st.sampled_from(["0", "1", "7", "0.5", "-1", "nan", "1e999", "x", "\n", ",", "0.1 0.2"]),
    max_size=30,
).map(" ".join)


@EXAMPLES
def test_damaged_yolo_labels_are_read_or_raise_user_error(tmp_path, examples):
    cases.make_image(tmp_path / "1.jpg")
    cases.write_text(tmp_path / "data.yaml", "train: .\nnames: [cat, dog]\n")

    def check(text):
        cases.write_text(tmp_path / "1.txt", text)
        read_all(tmp_path)

    fuzz(examples, check, LINES)


@EXAMPLES
def test_damaged_voc_xml_is_read_or_raises_user_error(tmp_path, examples):
    cases.make_image(tmp_path / "1.jpg")
    text = cases.voc_text([("cat", 1, 2, 3, 4), ("dog", 5, 6, 7, 8)])

    def check(data):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 40)))
        insert = data.draw(st.sampled_from(["", "<", "x", "1", "nan", "<a/>", "-", "\0"]))
        cases.write_text(tmp_path / "1.xml", text[:start] + insert + text[end:])
        read_all(tmp_path)

    fuzz(examples, check, st.data())


@EXAMPLES
def test_a_damaged_data_yaml_is_read_or_raises_user_error(tmp_path, examples):
    cases.make_image(tmp_path / "1.jpg")
    cases.write_text(tmp_path / "1.txt", "0 0.5 0.5 0.1 0.1\n")
    keys = st.sampled_from(["train", "val", "test", "path", "names", "nc", "kpt_shape"])

    def check(description):
        cases.write_text(tmp_path / "data.yaml", yaml.safe_dump(description))
        read_all(tmp_path)

    fuzz(examples, check, st.dictionaries(keys, VALUES))
