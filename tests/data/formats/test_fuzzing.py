"""Damaged annotation files give an error of one kind, never a traceback."""

import contextlib
import copy
import io
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking_det.data.convert import main
from ranking_det.data.formats.sources import convert, find_source
from ranking_det.user_errors import UserError
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


def read_all(write):
    """Read a data set of one image that ``write`` annotates, and convert it."""
    root = Path(tempfile.mkdtemp())
    try:
        cases.make_image(root / "1.jpg")
        write(root)
        source = find_source(str(root))
        for split in source.splits:
            for annotation in convert(source, split).content["annotations"]:
                assert annotation is not None
    except UserError as error:
        assert str(error)
    finally:
        shutil.rmtree(root)


@pytest.mark.parametrize("content", [VIA, LABELME], ids=["via", "labelme"])
@given(data=st.data())
@settings(max_examples=400, deadline=None)
def test_damaged_json(content, data):
    damaged = damage(data, content)
    read_all(lambda root: cases.write_json(root / "1.json", damaged))


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_damaged_coco_json_becomes_yolo_or_an_error(data):
    damaged = damage(data, COCO)
    root = Path(tempfile.mkdtemp())
    try:
        cases.make_image(root / "in" / "1.jpg")
        cases.write_json(root / "in" / "1.json", damaged)
        for target in ("coco", "yolo", "voc"):
            output = str(root / target)
            with (
                contextlib.redirect_stderr(io.StringIO()),
                contextlib.redirect_stdout(io.StringIO()),
            ):
                code = main([str(root / "in"), "--output", output, "--to", target])
            assert code in (0, 2)
            assert (root / target).exists() == (code == 0)
    finally:
        shutil.rmtree(root)


@given(
    text=st.lists(
        st.sampled_from(["0", "1", "7", "0.5", "-1", "nan", "1e999", "x", "\n", ",", "0.1 0.2"]),
        max_size=30,
    ).map(" ".join)
)
@settings(max_examples=150, deadline=None)
def test_damaged_label_lines(text):
    def write(root):
        cases.write_text(root / "1.txt", text)
        cases.write_text(root / "data.yaml", "train: .\nnames: [cat, dog]\n")

    read_all(write)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_xml(data):
    text = cases.voc_text([("cat", 1, 2, 3, 4), ("dog", 5, 6, 7, 8)])
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    insert = data.draw(st.sampled_from(["", "<", "x", "1", "nan", "<a/>", "-", "\0"]))
    read_all(lambda root: cases.write_text(root / "1.xml", text[:start] + insert + text[end:]))


@given(
    description=st.dictionaries(
        st.sampled_from(["train", "val", "test", "path", "names", "nc", "kpt_shape"]), VALUES
    )
)
@settings(max_examples=150, deadline=None)
def test_damaged_data_yaml(description):
    import yaml

    def write(root):
        cases.write_text(root / "1.txt", "0 0.5 0.5 0.1 0.1\n")
        cases.write_text(root / "data.yaml", yaml.safe_dump(description))

    read_all(write)
