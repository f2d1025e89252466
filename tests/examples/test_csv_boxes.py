"""Tests of examples/csv_boxes.py: reading a CSV of boxes, and its error messages."""

import pytest
from detectron2.structures import BoxMode
from PIL import Image

from examples.csv_boxes import CLASSES, FIELDS, load_records

ROWS = ["b.png,1,2,11.5,22,circle", "a.png,0,0,40,30,star5", "b.png,5,5,9,9,star5"]


@pytest.fixture
def write_csv(tmp_path):
    """Write three 40 x 30 images; return a function that writes a CSV and returns both paths."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in "abc":
        Image.new("RGB", (40, 30)).save(folder / f"{name}.png")

    def write(*rows):
        path = tmp_path / "boxes.csv"
        path.write_text("\n".join([",".join(FIELDS), *rows]) + "\n")
        return path, folder

    return write


def test_every_image_has_a_record_even_without_objects(write_csv):
    records = load_records(*write_csv(*ROWS))
    assert [record["file_name"][-5:] for record in records] == ["a.png", "b.png", "c.png"]
    assert [record["image_id"] for record in records] == [1, 2, 3]
    assert all((record["height"], record["width"]) == (30, 40) for record in records)
    assert [len(record["annotations"]) for record in records] == [1, 2, 0]
    first = records[1]["annotations"][0]
    assert first["bbox"] == [1, 2, 11.5, 22] and first["bbox_mode"] == BoxMode.XYXY_ABS
    assert CLASSES[first["category_id"]] == "circle"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.png,1,2,3,4,dog", r"boxes.csv, line 2: label: expected a class, got 'dog'"),
        ("a.png,3,2,3,4,circle", r"line 2: expected x1 < x2 and y1 < y2, got \[3.0, 2.0, 3.0, 4.0"),
        ("x.png,1,2,3,4,circle", r"boxes.csv: 'x.png' is not in .*images"),
        ("a.png,1,2,,4,circle", "could not convert string to float"),
    ],
)
def test_the_error_names_the_invalid_row(write_csv, row, message):
    with pytest.raises(ValueError, match=message):
        load_records(*write_csv(row))
