"""The olrp command writes the numbers of the detections in a result file."""

import json
from pathlib import Path

import pytest

from ranking_det.analysis.__main__ import main
from tests.evaluation.cases import BOX, FAR, A, B, ground_truth, result, write


@pytest.fixture
def files(tmp_path):
    content = ground_truth((1, A, BOX), (1, B, FAR))
    for image in content["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    results = [result(2, A, FAR, 0.9), result(1, A, BOX, 0.8)]
    return {
        "--ground-truth": write(tmp_path / "gt.json", content),
        "--results": write(tmp_path / "res.json", results),
        "--iou-type": "bbox",
        "--output": str(tmp_path / "out.json"),
    }


def run(files):
    return main(["olrp", *(part for pair in files.items() for part in pair)])


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_the_errors_are_written_in_percent_and_the_thresholds_as_scores(files, iou_type, capsys):
    files["--iou-type"] = iou_type
    assert run(files) == 0
    numbers = json.loads(Path(files["--output"]).read_text())
    # Class A: the best prefix has a false and a true positive; class B is not detected.
    assert numbers.pop("classes") == {
        "rare": {"oLRP": 50, "threshold": 0.8},
        "common": {"oLRP": 100, "threshold": None},
        "frequent": {"oLRP": None, "threshold": None},
        "absent": {"oLRP": None, "threshold": None},
    }
    assert numbers == {
        **{"oLRP": 75, "oLRPLoc": 0, "oLRPFP": 50, "oLRPFN": 50},
        **{"oLRPs": None, "oLRPm": 75, "oLRPl": None},
    }
    printed = capsys.readouterr().out
    assert "COCO format, 2 images, 2 objects" in printed and "\noLRP     75.000\n" in printed


def test_the_fields_of_lvis_in_the_ground_truth_select_its_rules(files):
    write(Path(files["--ground-truth"]), ground_truth((1, A, BOX), (1, B, FAR)))
    assert run(files) == 0
    numbers = json.loads(Path(files["--output"]).read_text())
    assert numbers["oLRPFP"] == 0  # the class of the false positive was not annotated there
    assert numbers["classes"]["rare"]["oLRP"] == 0


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--results", [result(9, A, BOX, 0.8)], "expected the id of an image"),
        ("--results", [result(1, 77, BOX, 0.8)], "expected the id of a category"),
        ("--results", [result(1, A, BOX, float("nan"))], "'score'"),
        ("--ground-truth", {"images": []}, "gt.json"),
        ("--output", None, "is also the results"),
    ],
)
def test_faulty_files_give_one_line_and_write_nothing(files, flag, value, message, capsys):
    if value is None:
        files["--output"] = files["--results"]
    else:
        write(Path(files[flag]), value)
    before = {path: path.read_bytes() for path in Path(files["--results"]).parent.iterdir()}
    assert run(files) == 2
    captured = capsys.readouterr()
    first, *others = captured.err.splitlines()
    assert first.startswith("python -m ranking_det.analysis: error: ") and not captured.out
    assert message in captured.err and len(others) <= 1
    assert before == {path: path.read_bytes() for path in Path(files["--results"]).parent.iterdir()}


def test_no_detections_and_one_class_give_defined_numbers(files):
    content = json.loads(Path(files["--ground-truth"]).read_text())
    content["categories"] = [c for c in content["categories"] if c["id"] == A]
    content["annotations"] = content["annotations"][:1]
    write(Path(files["--ground-truth"]), content)
    write(Path(files["--results"]), [])
    assert run(files) == 0
    numbers = json.loads(Path(files["--output"]).read_text())
    assert (numbers["oLRP"], numbers["oLRPFN"]) == (100, 100)
    assert numbers["oLRPLoc"] is numbers["oLRPFP"] is None
    assert numbers["classes"] == {"rare": {"oLRP": 100, "threshold": None}}


def test_overrides_are_not_accepted_without_a_config(files, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["olrp", *(part for pair in files.items() for part in pair), "a=1"])
    assert "unknown arguments: a=1" in capsys.readouterr().err
